use appliance_model::OsDice;
use proptest::prelude::{ProptestConfig, any, proptest};

use super::stream::CHUNK_BYTES;
use super::*;

struct World {
    data: tempfile::TempDir,
    master: SecretKey,
    blobs: Blobs,
}

impl World {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let master = SecretKey::random(&OsDice);
        let blobs = Blobs::open(data.path(), &master, Arc::new(OsDice)).unwrap();
        Self { data, master, blobs }
    }

    async fn keep(&self, bytes: &[u8], step: usize) -> Kept {
        let mut writer = self.blobs.begin(5).await.unwrap();
        for part in bytes.chunks(step.max(1)) {
            writer.write(part).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    async fn read(&self, kept: &Kept, (from, to): (u64, u64)) -> Result<Vec<u8>, Error> {
        let opened = self.blobs.read(&kept.name, &kept.key, kept.bytes, (from, to)).await?;
        let mut reader = opened.expect("the file is there");
        let mut whole = Vec::new();
        while let Some(part) = reader.next().await? {
            assert!(part.len() <= CHUNK_BYTES && !part.is_empty());
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    async fn read_all(&self, kept: &Kept) -> Result<Vec<u8>, Error> {
        self.read(kept, (0, kept.bytes)).await
    }

    fn path(&self, kept: &Kept) -> PathBuf {
        self.blobs.path(&kept.name, "")
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the length and however it arrives, it comes back, and every range is that slice.
    #[test]
    fn what_was_kept_comes_back(
        extra in 0usize..200,
        chunks in 0usize..4,
        below in any::<bool>(),
        step in 1usize..150_000,
        from in 0u64..300_000,
        length in 0u64..300_000,
    ) {
        let length_all = if below { (chunks * CHUNK_BYTES).saturating_sub(extra) } else { chunks * CHUNK_BYTES + extra };
        let bytes = pattern(length_all);
        block_on(async {
            let world = World::new();
            let kept = world.keep(&bytes, step).await;
            assert_eq!(kept.bytes, bytes.len() as u64);
            assert_eq!(world.read_all(&kept).await.unwrap(), bytes);
            let to = from.saturating_add(length);
            let clip = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
            let slice = &bytes[clip(from)..clip(to)];
            assert_eq!(world.read(&kept, (from, to)).await.unwrap(), slice);
        });
    }

    /// One bit anywhere, a cut anywhere, two chunks swapped: never served, not even in part wrong.
    #[test]
    fn no_change_goes_unnoticed(place in any::<u64>(), bit in 0u8..8, cut in any::<u64>()) {
        let bytes = pattern(2 * CHUNK_BYTES + 77);
        block_on(async {
            let world = World::new();
            let kept = world.keep(&bytes, 9_000).await;
            let path = world.path(&kept);
            let sealed = std::fs::read(&path).unwrap();
            let at = usize::try_from(place % sealed.len() as u64).unwrap();

            let mut flipped = sealed.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, &flipped).unwrap();
            assert!(world.read_all(&kept).await.is_err(), "bit {bit} of byte {at}");

            let length = usize::try_from(cut % sealed.len() as u64).unwrap();
            std::fs::write(&path, &sealed[..length]).unwrap();
            assert!(world.read_all(&kept).await.is_err(), "cut at {length}");

            let mut longer = sealed.clone();
            longer.push(0);
            std::fs::write(&path, &longer).unwrap();
            assert!(world.read_all(&kept).await.is_err(), "a byte more");

            let chunk = stream::SEALED_CHUNK_BYTES;
            let mut swapped = sealed.clone();
            let (first, second) = swapped[stream::HEAD_BYTES..].split_at_mut(chunk);
            first.swap_with_slice(&mut second[..chunk]);
            std::fs::write(&path, &swapped).unwrap();
            assert!(world.read_all(&kept).await.is_err(), "two chunks swapped");

            std::fs::write(&path, &sealed).unwrap();
            assert_eq!(world.read_all(&kept).await.unwrap(), bytes, "and whole again");
        });
    }
}

/// Every single bit of a small file.
#[tokio::test]
async fn every_bit_counts() {
    let world = World::new();
    let kept = world.keep(b"bed 4 is free", 4).await;
    let sealed = std::fs::read(world.path(&kept)).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(world.path(&kept), &flipped).unwrap();
        assert!(world.read_all(&kept).await.is_err(), "bit {bit}");
    }
}

#[tokio::test]
async fn an_empty_file_is_sealed_too() {
    let world = World::new();
    let kept = world.keep(b"", 1).await;
    assert_eq!(world.read_all(&kept).await.unwrap(), b"");
    let mut sealed = std::fs::read(world.path(&kept)).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    std::fs::write(world.path(&kept), &sealed).unwrap();
    assert!(world.read_all(&kept).await.is_err());
}

#[tokio::test]
async fn the_clear_bytes_are_nowhere_on_disk_and_erasing_leaves_nothing() {
    let world = World::new();
    let marker = b"PLANTED-MARKER-0123456789";
    let kept = world.keep(&marker.repeat(10_000), 1_000).await;
    let mut rendering = world.blobs.begin_rendering(&kept.name, "32x32c", &kept.key).await.unwrap();
    rendering.write(marker).await.unwrap();
    rendering.finish().await.unwrap().into_named();
    let read = world.blobs.read_rendering(&kept.name, "32x32c", &kept.key, 1_000).await.unwrap();
    assert_eq!(read.unwrap(), marker.as_slice());

    let files = files_below(world.data.path());
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(marker.len()).any(|window| window == marker), "{file:?}");
    }
    world.blobs.erase(&kept.name, &["32x32c", "96x96c"]).await.unwrap();
    assert!(files_below(world.data.path()).is_empty());
    world.blobs.erase(&kept.name, &["32x32c"]).await.unwrap();
    let gone = world.blobs.read(&kept.name, &kept.key, kept.bytes, (0, 1)).await.unwrap();
    assert!(gone.is_none());
}

/// The disk is read by someone who has the wrapped key and an image of the erased file's blocks.
#[tokio::test]
async fn an_erased_file_does_not_open_even_with_its_data_key() {
    let world = World::new();
    let kept = world.keep(b"a photo", 7).await;
    let path = world.path(&kept);
    let link = world.data.path().join("block-image");
    std::fs::hard_link(&path, &link).unwrap();
    world.blobs.erase(&kept.name, &[]).await.unwrap();
    std::fs::rename(&link, &path).unwrap();
    assert!(world.read_all(&kept).await.is_err());
}

#[tokio::test]
async fn a_file_that_cannot_be_removed_is_an_error_until_it_can() {
    let world = World::new();
    let kept = world.keep(b"a photo", 7).await;
    let path = world.path(&kept);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(world.blobs.erase(&kept.name, &[]).await.is_err());
    std::fs::remove_dir(&path).unwrap();
    world.blobs.erase(&kept.name, &[]).await.unwrap();
}

#[tokio::test]
async fn many_are_erased_together_and_one_that_stays_keeps_no_other() {
    const STAYS: usize = 17;
    let world = World::new();
    let mut all_kept = Vec::new();
    for _ in 0..40 {
        all_kept.push(world.keep(b"a photo", 7).await);
    }
    let names: Vec<BlobName> = all_kept.iter().map(|kept| kept.name.clone()).collect();
    let path = world.blobs.path(&names[STAYS], "");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let outcomes = world.blobs.erase_all(&names, &["32x32c"]).await;
    let stay: Vec<usize> = (0..40).filter(|at| outcomes[*at].is_err()).collect();
    assert_eq!((outcomes.len(), stay), (40, vec![STAYS]));
    assert!(files_below(world.data.path()).is_empty());
    // A folder that cannot be synced: of what lay in it nobody knows whether a power cut brings it back.
    std::fs::remove_dir_all(world.blobs.shelf_of(&names[STAYS])).unwrap();
    let outcomes = world.blobs.erase_all(&names, &[]).await;
    for (name, outcome) in names.iter().zip(outcomes) {
        assert_eq!(outcome.is_err(), name.shelf() == names[STAYS].shelf());
    }
}

#[tokio::test]
async fn what_was_half_written_goes_at_the_next_start() {
    let world = World::new();
    let mut writer = world.blobs.begin(9).await.unwrap();
    writer.write(&pattern(200_000)).await.unwrap();
    std::mem::drop(writer);
    assert!(files_below(world.data.path()).is_empty(), "a dropped upload leaves nothing");

    std::fs::write(world.data.path().join("media/tmp/left"), b"noise").unwrap();
    let again = Blobs::open(world.data.path(), &world.master, Arc::new(OsDice)).unwrap();
    assert!(files_below(world.data.path()).is_empty());
    let kept = world.keep(b"a photo", 7).await;
    assert!(world.blobs.is_in_flight(&kept.name));
    let mut found = Vec::new();
    for shelf in 0..again.shelves() {
        found.extend(again.on_shelf(shelf).await.unwrap());
    }
    assert_eq!(found.len(), 1);
    assert_eq!(found[0], kept.name);
    assert_eq!(found[0].number(), 5);
    let name = kept.name.clone();
    let named = kept.into_named();
    assert!(world.blobs.is_in_flight(&name));
    drop(named);
    assert!(!world.blobs.is_in_flight(&name));
    assert_eq!(files_below(world.data.path()).len(), 1, "named, so it stays");
    drop(world.keep(b"another photo", 7).await);
    assert_eq!(files_below(world.data.path()).len(), 1, "never named, so it goes");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
