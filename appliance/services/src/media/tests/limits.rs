//! How much may lie here.

use std::io::Cursor;

use image::codecs::gif::GifEncoder;
use image::{Frame, Rgba, RgbaImage};

use super::super::thumbnail::Wanted;
use super::*;
use crate::Options;
use crate::scenario::options;

async fn ward(media: MediaOptions) -> (Ward, Caller) {
    let ward = Ward::with_options(Options { media, ..options() }).await;
    let nurse = ward.member("nurse").await;
    (ward, nurse)
}

#[tokio::test]
async fn a_user_s_files_are_counted_until_they_are_gone() {
    let media = MediaOptions { user_bytes_max: 1_000, ..MediaOptions::default() };
    let (ward, nurse) = ward(media).await;
    let of = async |ward: &Ward| {
        let usage = ward.services.media.usage(nurse.user).await.unwrap();
        (usage.files, usage.bytes)
    };
    ward.upload(&nurse, &[7; 600]).await;
    assert_eq!(of(&ward).await, (1, 600));
    let media = &ward.services.media;
    let over = media.upload(&nurse, of_type("image/png"), body(&[7; 401])).await;
    assert!(matches!(kind(over), Kind::ResourceLimit { .. }));
    let announced = NewFile { announced_bytes: Some(401), ..of_type("image/png") };
    assert!(matches!(
        kind(media.upload(&nurse, announced, body(&[])).await),
        Kind::ResourceLimit { .. }
    ));
    ward.upload(&nurse, &[7; 400]).await;
    assert_eq!(of(&ward).await, (2, 1_000));

    let more = media.set_quota(&nurse.user_id, Some(1_001), "chief").await.unwrap();
    assert_eq!(more.quota_bytes, Some(1_001));
    ward.upload(&nurse, &[7; 1]).await;
    let ward = ward.power_cut_and_restart().await;
    assert_eq!(of(&ward).await, (3, 1_001));
    let back = ward.services.media.set_quota(&nurse.user_id, None, "chief").await.unwrap();
    assert_eq!(back.quota_bytes, Some(1_000));
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(ward.look().await.erased, 3);
    assert_eq!(of(&ward).await, (0, 0));
}

/// Ten uploads at once into room for three.
#[tokio::test]
async fn two_at_once_are_not_both_the_last() {
    let media = MediaOptions { user_bytes_max: 350, ..MediaOptions::default() };
    let (ward, nurse) = ward(media).await;
    let uploads = (0..10).map(|number: u8| {
        let (ward, nurse) = (&ward, &nurse);
        async move {
            ward.services.media.upload(nurse, of_type("image/png"), body(&[number; 100])).await
        }
    });
    let made = futures_util::future::join_all(uploads).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 3);
    assert_eq!(ward.services.media.usage(nurse.user).await.unwrap().bytes, 300);
}

#[tokio::test]
async fn all_together_have_a_limit() {
    let media = MediaOptions { total_bytes_max: 1_000, ..MediaOptions::default() };
    let (ward, nurse) = ward(media).await;
    let doctor = ward.member("doctor").await;
    ward.upload(&nurse, &[7; 600]).await;
    let ward = ward.power_cut_and_restart().await;
    let media = &ward.services.media;
    let over = media.upload(&doctor, of_type("image/png"), body(&[7; 401])).await;
    assert!(matches!(kind(over), Kind::ResourceLimit { .. }));
    ward.upload(&doctor, &[7; 400]).await;
    ward.clock.pass_ms(7 * DAY_MS);
    ward.look().await;
    ward.upload(&doctor, &[7; 1_000]).await;
}

fn picture(shade: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let picture = RgbaImage::from_fn(200, 200, |x, y| {
        let noise = u8::try_from((x * 31 + y * 17) % 251).unwrap();
        Rgba([noise, noise.wrapping_mul(7), shade, 255])
    });
    picture.write_to(&mut Cursor::new(&mut out), image::ImageFormat::Png).unwrap();
    out
}

const SMALL: Wanted = Wanted { width: 96, height: 96, crop: true, animated: false };

#[tokio::test]
async fn renderings_take_up_no_more_than_their_share() {
    let media = MediaOptions { renderings_bytes_max: 100_000, ..MediaOptions::default() };
    let (ward, nurse) = ward(media).await;
    let on_disk = async || {
        let mut bytes = 0;
        for shelf in 0..ward.services.house.blobs.shelves() {
            let found = ward.services.house.blobs.renderings_on(shelf).await.unwrap();
            bytes += found.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        }
        bytes
    };
    let mut first = None;
    for shade in 0..20 {
        let uri = ward.upload(&nurse, &picture(shade)).await;
        let found = ward.find(&uri).await.unwrap();
        let made = ward.services.media.thumbnail(&nurse, &found, SMALL).await.unwrap();
        first.get_or_insert((found, made.bytes));
    }
    let kept = on_disk().await;
    // Sealing adds a little to each.
    assert!(kept > 10_000 && kept < 110_000, "{kept}");
    let (found, bytes) = first.unwrap();
    let again = ward.services.media.thumbnail(&nurse, &found, SMALL).await.unwrap();
    assert_eq!(again.bytes, bytes, "what is gone is made again");
    ward.clock.pass_ms(7 * DAY_MS);
    assert_eq!(ward.look().await.erased, 20);
    assert_eq!(on_disk().await, 0);
}

#[tokio::test]
async fn what_moves_moves_if_it_is_asked_to() {
    let (ward, nurse) = ward(MediaOptions::default()).await;
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut gif, 30);
    for shade in [0, 120, 250] {
        let picture = RgbaImage::from_pixel(200, 200, Rgba([shade, 0, 0, 255]));
        encoder.encode_frame(Frame::new(picture)).unwrap();
    }
    drop(encoder);
    let uri = ward.upload(&nurse, &gif).await;
    let still = ward.upload(&nurse, &picture(1)).await;
    let media = &ward.services.media;
    let of = async |uri: &str, animated| {
        let found = ward.find(uri).await.unwrap();
        let wanted = Wanted { animated, ..SMALL };
        media.thumbnail(&nurse, &found, wanted).await.unwrap().content_type
    };
    assert_eq!(of(&uri, true).await, "image/gif");
    assert_eq!(of(&uri, true).await, "image/gif", "from the disk");
    assert_ne!(of(&uri, false).await, "image/gif", "not unless it is asked to");
    assert_eq!(of(&still, true).await, of(&still, false).await);
    ward.clock.pass_ms(7 * DAY_MS);
    ward.look().await;
    for shelf in 0..ward.services.house.blobs.shelves() {
        assert_eq!(ward.services.house.blobs.renderings_on(shelf).await.unwrap(), []);
    }
}
