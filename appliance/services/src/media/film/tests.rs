//! A film as a phone writes it, made box by box.

use super::*;

const MARKER: &[u8] = b"+51.5074-000.1278/";
const PICTURES: &[u8] = b"two pictures, compressed";
const SOUND: &[u8] = b"and some sound";

/// What is done to a blob, to bytes in memory.
pub fn cleaned(film: &[u8]) -> Option<Vec<u8>> {
    let mut survey = Survey::new(film.len() as u64);
    let place = |at: u64| usize::try_from(at).unwrap();
    while let Some((from, to)) = survey.wants() {
        survey.give(&film[place(from)..place(to)])?;
    }
    let plan = survey.plan()?;
    let mut out = film.to_vec();
    // As it comes from the disk, in parts.
    for (index, part) in out.chunks_mut(37).enumerate() {
        plan.apply(index as u64 * 37, part);
    }
    Some(out)
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u32::try_from(content.len() + 8).unwrap();
    [&length.to_be_bytes()[..], kind, &content].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

struct Track {
    handler: &'static [u8; 4],
    codec: &'static [u8; 4],
    at: u32,
    sizes: Vec<u32>,
}

impl Track {
    fn boxed(&self) -> Vec<u8> {
        // Made and changed, and a matrix that turns it by a quarter.
        let tkhd = [&[0, 0, 0, 7], MARKER, &[0; 22], &numbers(&[0, 0x1_0000, 0]), &[0; 32]];
        let entry = match self.handler {
            b"vide" => [&[0; 42], MARKER, &[0; 18], &boxed(b"uuid", &[MARKER])].concat(),
            _ => vec![0; 28],
        };
        let count = u32::try_from(self.sizes.len()).unwrap();
        let [stsz, stsc] = [numbers(&[0, 0, count]), numbers(&[0, 1, 1, count, 1])];
        let entry = boxed(self.codec, &[&entry]);
        let stbl = boxed(
            b"stbl",
            &[
                &boxed(b"stsd", &[&numbers(&[0, 1]), &entry]),
                &boxed(b"stsc", &[&stsc]),
                &boxed(b"stsz", &[&stsz, &numbers(&self.sizes)]),
                &boxed(b"stco", &[&numbers(&[0, 1, self.at])]),
            ],
        );
        let url = boxed(b"url ", &[&[0, 0, 0, 1], MARKER]);
        let dinf = boxed(b"dinf", &[&boxed(b"dref", &[&numbers(&[0, 1]), &url])]);
        let hdlr = boxed(b"hdlr", &[&[0; 8], self.handler, &[0; 12], MARKER, &[0]]);
        let minf = boxed(b"minf", &[&dinf, &stbl, &boxed(b"gmhd", &[MARKER])]);
        let mdhd = boxed(b"mdhd", &[&[0; 4], &MARKER[..8], &[0; 12]]);
        let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
        let udta = boxed(b"udta", &[&boxed(b"\xa9xyz", &[MARKER])]);
        boxed(b"trak", &[&boxed(b"tkhd", &tkhd), &mdia, &udta, &boxed(b"meta", &[MARKER])])
    }
}

/// As a phone writes one: pictures, sound, where it was meanwhile; places wherever there can be one. The
/// tables come last.
pub fn film() -> Vec<u8> {
    film_of(b"avc1", 0)
}

fn film_of(codec: &'static [u8; 4], off_by: u32) -> Vec<u8> {
    let samples = [PICTURES, MARKER, SOUND, MARKER].concat();
    let head = [boxed(b"ftyp", &[b"isom\0\0\0\0isommp42"]), boxed(b"free", &[MARKER])].concat();
    let start = u32::try_from(head.len() + 16).unwrap();
    let lengths = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let (pictures, place) = (lengths(PICTURES), lengths(MARKER));
    let tracks = [
        Track { handler: b"vide", codec, at: start + off_by, sizes: vec![10, pictures - 10] },
        Track { handler: b"meta", codec: b"mebx", at: start + pictures, sizes: vec![place] },
        Track {
            handler: b"soun",
            codec: b"mp4a",
            at: start + pictures + place,
            sizes: vec![lengths(SOUND)],
        },
    ];
    // A length of 64 bits, as large films have.
    let length = (samples.len() as u64 + 16).to_be_bytes();
    let mdat = [&[0, 0, 0, 1], &b"mdat"[..], &length, &samples].concat();
    let mvhd = boxed(b"mvhd", &[&[0; 4], &MARKER[..8], &[0; 88]]);
    let mut moov = vec![mvhd];
    moov.extend(tracks.iter().map(Track::boxed));
    moov.extend([boxed(b"meta", &[MARKER]), boxed(b"udta", &[MARKER])]);
    let moov: Vec<_> = moov.iter().map(Vec::as_slice).collect();
    [head, mdat, boxed(b"moov", &moov), boxed(b"uuid", &[&[7; 16], MARKER])].concat()
}

pub fn tells_place(bytes: &[u8]) -> bool {
    bytes.windows(8).any(|part| part == &MARKER[..8])
}

fn position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[test]
fn the_place_is_gone_and_picture_and_sound_are_where_they_were() {
    let film = film();
    assert!(begins(&film));
    let cleaned = cleaned(&film).unwrap();
    assert!(tells_place(&film) && !tells_place(&cleaned));
    assert_eq!(film.len(), cleaned.len());
    let matrix = numbers(&[0, 0x1_0000, 0]);
    for part in [PICTURES, SOUND, b"avc1", b"mp4a", b"stco", &matrix] {
        assert!(position(&film, part).is_some());
        assert_eq!(position(&film, part), position(&cleaned, part));
    }
    assert_eq!(position(&cleaned, b"mebx"), None);
    assert_eq!(super::tests::cleaned(&cleaned).unwrap(), cleaned, "once is enough");
}

#[test]
fn what_cannot_be_judged_is_not_called_clean() {
    // Pictures with places of their own; what is encrypted; samples outside of the media.
    for (codec, off_by) in [(b"jpeg", 0), (b"encv", 0), (b"avc1", 900), (b"avc1", u32::MAX - 99)] {
        assert_eq!(cleaned(&film_of(codec, off_by)), None, "{codec:?} {off_by}");
    }
    let film = film();
    let ends = [film.len(), film.len() - (8 + 16 + MARKER.len())];
    for end in 0..film.len() {
        let is_whole = ends.contains(&end);
        assert_eq!(cleaned(&film[..end]).is_some(), is_whole, "{end}");
    }
    // In fragments, whose bytes are whose is said elsewhere.
    let fragments = [&film[..], &boxed(b"moof", &[&boxed(b"mfhd", &[&[0; 8]])])].concat();
    assert_eq!(cleaned(&fragments), None);
    assert_eq!(cleaned(&[&film[..], &film].concat()), None, "two films in one");
    assert_eq!(cleaned(b""), None);
}

#[test]
fn what_is_no_film_does_not_begin_like_one() {
    for head in [
        &b""[..],
        b"\0\0\0\x18",
        b"\0\0\0\x18ftypheic",
        b"\x1a\x45\xdf\xa3webm....",
        b"RIFF....AVI ",
    ] {
        assert!(!begins(head));
    }
    assert!(begins(b"\0\0\0\x14ftypqt  ") && begins(b"\0\0\0\x08wide"));
}
