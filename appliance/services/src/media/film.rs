//! A film without what its camera wrote beside it: place, time, device, and tracks of other things than
//! picture and sound.
//!
//! Films are ISO base media files ([ISO/IEC 14496-12]: MP4, MOV, 3GP), boxes in boxes. Only boxes that are
//! needed to play picture and sound stay; all others become `free` boxes of the same length full of zeros, and
//! so does every byte of the media data that belongs to no picture or sound: no offset moves and nothing is
//! encoded anew. Which way to hold it (the matrix of `tkhd`) stays. What is inside the compressed pictures
//! themselves is not looked into.
//!
//! Films are large: only their tables are in memory, the rest passes through.
//!
//! [ISO/IEC 14496-12]: https://www.iso.org/standard/83102.html

mod tables;

use appliance_ledger::Digest;
use appliance_ledger::blobs::Kept;
use appliance_model::{Error, MediaNid};
use aws_lc_rs::digest;

use self::tables::{
    BoxKind, HEAD_BYTES, LONG_HEAD_BYTES, Span, chunks_of, forget_times, handler_of, head_of,
    is_codec, is_needed, split_box, u16_at,
};
use super::{Media, no_such_media};

/// Tables of a film: those of two hours at 60 pictures a second have half of it.
const TABLES_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Boxes of a film. Films in fragments of a second have a few for each.
const BOXES_MAX: u32 = 50_000;
/// Runs of samples, of all tracks together: two hours have some ten thousand.
const CHUNKS_MAX: usize = 500_000;

/// Whether a file begins like an ISO base media file that is no still picture.
pub(super) fn begins(head: &[u8]) -> bool {
    let brand = head.get(8..12);
    match head.get(4..8) {
        Some(b"ftyp") => !brand.is_some_and(|brand| {
            [&b"heic"[..], b"heix", b"mif1", b"msf1", b"avif", b"avis"].contains(&brand)
        }),
        // As QuickTime began before there was `ftyp`.
        Some(kind) => [&b"moov"[..], b"mdat", b"wide"].contains(&kind),
        None => false,
    }
}

/// What a film is told by, box after box; it says which bytes it wants to see, so that it reads from anywhere.
pub(super) struct Survey {
    bytes: u64,
    at: u64,
    /// Of a box whose content is wanted next.
    content: Option<(BoxKind, Span)>,
    boxes: u32,
    tables_bytes: u64,
    is_fragmented: bool,
    /// Of pictures and sound.
    tracks: u32,
    /// Whether the one that is looked at has pictures.
    is_visual: bool,
    has_other_tracks: bool,
    has_movie: bool,
    media: Vec<Span>,
    /// Where picture and sound lie.
    chunks: Vec<Span>,
    plan: Plan,
}

/// What becomes of a box.
#[derive(PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
}

/// What has to be written over.
#[derive(Default)]
pub(super) struct Plan {
    /// Positions and bytes, in order.
    replaced: Vec<(u64, Vec<u8>)>,
    /// In order.
    zeros: Vec<Span>,
}

impl Survey {
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            at: 0,
            content: None,
            boxes: 0,
            tables_bytes: 0,
            is_fragmented: false,
            tracks: 0,
            is_visual: false,
            has_other_tracks: false,
            has_movie: false,
            media: Vec::new(),
            chunks: Vec::new(),
            plan: Plan::default(),
        }
    }

    /// The bytes to be given next; none when all was seen.
    pub fn wants(&self) -> Option<Span> {
        let head = (self.at, self.bytes.min(self.at + LONG_HEAD_BYTES as u64));
        match self.content {
            Some((_, span)) => Some(span),
            None => (self.at < self.bytes).then_some(head),
        }
    }

    /// Takes the bytes that were wanted; none if this is no film that can be cleaned.
    pub fn give(&mut self, bytes: &[u8]) -> Option<()> {
        match self.content.take() {
            Some((kind, (from, to))) => {
                self.at = to;
                self.tables(kind, from, bytes.to_vec())
            }
            None => self.head(bytes),
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Option<()> {
        self.count()?;
        let (kind, head_bytes, length) = head_of(bytes, self.bytes - self.at)?;
        let content = (self.at + head_bytes, self.at + length);
        match &kind {
            b"ftyp" | b"styp" | b"moov" | b"moof" | b"sidx" | b"ssix" | b"mfra" => {
                self.tables_bytes = self.tables_bytes.checked_add(length)?;
                if self.tables_bytes > TABLES_BYTES_MAX {
                    return None;
                }
                self.content = Some((kind, content));
                return Some(());
            }
            b"mdat" => self.media.push(content),
            _ => {
                self.plan.replaced.push((self.at + 4, b"free".to_vec()));
                self.plan.zeros.push(content);
            }
        }
        self.at = content.1;
        Some(())
    }

    fn count(&mut self) -> Option<()> {
        self.boxes += 1;
        (self.boxes <= BOXES_MAX).then_some(())
    }

    fn tables(&mut self, kind: BoxKind, from: u64, mut content: Vec<u8>) -> Option<()> {
        match &kind {
            b"moov" if self.has_movie => return None,
            b"moov" => {
                self.has_movie = true;
                self.inside(kind, &mut content)?;
            }
            b"moof" => {
                self.is_fragmented = true;
                self.inside(kind, &mut content)?;
            }
            _ => return Some(()),
        }
        self.plan.replaced.push((from, content));
        Some(())
    }

    /// The boxes in a box.
    fn inside(&mut self, parent: BoxKind, content: &mut [u8]) -> Option<()> {
        let mut rest = content;
        while rest.len() >= HEAD_BYTES {
            self.count()?;
            let (kind, [head, content, behind]) = split_box(rest)?;
            if self.keep((parent, kind), content)? == Fate::Goes {
                head[4..8].copy_from_slice(b"free");
                content.fill(0);
            }
            rest = behind;
        }
        // QuickTime ends lists by a zero that is no box.
        rest.fill(0);
        Some(())
    }

    /// Cleans one box.
    fn keep(&mut self, (parent, kind): (BoxKind, BoxKind), content: &mut [u8]) -> Option<Fate> {
        match (&parent, &kind) {
            (b"moov", b"trak") => {
                self.is_visual = match handler_of(content)? {
                    b"vide" => true,
                    b"soun" => false,
                    // What tells time and place while the film runs, subtitles, what is meant for other apps.
                    _ => {
                        self.has_other_tracks = true;
                        return Some(Fate::Goes);
                    }
                };
                self.tracks += 1;
                self.inside(kind, content)?;
                let room = CHUNKS_MAX - self.chunks.len();
                self.chunks.extend(chunks_of(content, self.is_visual, room)?);
            }
            (b"moov", b"mvex") | (b"trak", b"edts" | b"mdia") | (b"mdia", b"minf") => {
                self.inside(kind, content)?;
            }
            (b"minf", b"dinf" | b"stbl") | (b"moof", b"traf") => self.inside(kind, content)?,
            (b"moov", b"mvhd") | (b"trak", b"tkhd") | (b"mdia", b"mdhd") => forget_times(content)?,
            (b"mdia" | b"minf", b"hdlr") => {
                // What follows is who wrote it, and a name.
                content.get_mut(12..)?.fill(0);
            }
            (b"dinf", b"dref") => self.references(content)?,
            (b"stbl", b"stsd") => self.descriptions(content)?,
            _ if is_needed(&parent, &kind) => {}
            _ => return Some(Fate::Goes),
        }
        Some(Fate::Stays)
    }

    /// Where the samples are: in this very file.
    fn references(&mut self, content: &mut [u8]) -> Option<()> {
        let mut rest = content.get_mut(8..)?;
        while rest.len() >= HEAD_BYTES {
            self.count()?;
            let (_, [_, content, behind]) = split_box(rest)?;
            let is_self_contained = content.get(3)? & 1 == 1;
            if !is_self_contained {
                return None;
            }
            // It may hold the name of a file.
            content[4..].fill(0);
            rest = behind;
        }
        Some(())
    }

    /// How to decode the samples.
    fn descriptions(&mut self, content: &mut [u8]) -> Option<()> {
        /// Up to its boxes, `VisualSampleEntry`; `AudioSampleEntry`, also in QuickTime's later versions.
        const VISUAL_BYTES: usize = 78;
        const AUDIO_BYTES: [usize; 3] = [28, 44, 64];
        // Which of both it is, its handler said; the kinds are many.
        let is_visual = self.is_visual;
        let mut rest = content.get_mut(8..)?;
        while rest.len() >= HEAD_BYTES {
            self.count()?;
            let (kind, [_, content, behind]) = split_box(rest)?;
            let fixed = match kind {
                // Pictures like those of cameras, with places of their own, and what is encrypted.
                _ if !is_codec(&kind) => return None,
                _ if is_visual => {
                    // Who wrote it, and the name of the encoder.
                    content.get_mut(12..16)?.fill(0);
                    content.get_mut(42..74)?.fill(0);
                    VISUAL_BYTES
                }
                _ => *AUDIO_BYTES.get(usize::from(u16_at(content, 8)?))?,
            };
            self.inside(*b"stsd", content.get_mut(fixed..)?)?;
            rest = behind;
        }
        rest.fill(0);
        Some(())
    }

    /// What to write over; none if this is no film that can be cleaned.
    pub fn plan(mut self) -> Option<Plan> {
        if !self.has_movie || self.tracks == 0 {
            return None;
        }
        if self.is_fragmented {
            // Whose bytes are whose, every fragment says anew.
            return (!self.has_other_tracks).then_some(self.plan);
        }
        self.chunks.sort_unstable();
        let mut chunks = self.chunks.into_iter().peekable();
        for (from, to) in self.media {
            let mut at = from;
            while let Some((start, end)) = chunks.next_if(|(start, _)| *start < to) {
                if start < from || end > to {
                    return None;
                }
                if at < start {
                    self.plan.zeros.push((at, start));
                }
                at = at.max(end);
            }
            self.plan.zeros.push((at, to));
        }
        // What lies elsewhere would not be there any more.
        chunks.next().is_none().then(|| {
            self.plan.zeros.sort_unstable();
            self.plan
        })
    }
}

impl Plan {
    /// Writes over what has to go in a part of the film that begins at `at`.
    pub fn apply(&self, at: u64, part: &mut [u8]) {
        let end = at + part.len() as u64;
        let within =
            |position: u64| usize::try_from(position.clamp(at, end) - at).unwrap_or(part.len());
        let first = self.zeros.partition_point(|(_, to)| *to <= at);
        let zeros = self.zeros[first..].iter().take_while(|(from, _)| *from < end);
        let zeros: Vec<_> = zeros.map(|(from, to)| within(*from)..within(*to)).collect();
        let ends = |(from, bytes): &(u64, Vec<u8>)| from + bytes.len() as u64;
        let first = self.replaced.partition_point(|one| ends(one) <= at);
        let replaced = self.replaced[first..].iter().take_while(|(from, _)| *from < end);
        let replaced: Vec<_> = replaced
            .map(|one| {
                let place = within(one.0)..within(ends(one));
                let skipped = usize::try_from(at.saturating_sub(one.0)).unwrap_or(usize::MAX);
                (place.clone(), &one.1[skipped..skipped + place.len()])
            })
            .collect();
        for span in zeros {
            part[span].fill(0);
        }
        for (span, bytes) in replaced {
            part[span].copy_from_slice(bytes);
        }
    }
}

impl Media {
    /// The film without what its camera wrote beside it, in a blob of its own, and the digest of its content;
    /// none if it cannot be cleaned.
    ///
    /// # Errors
    ///
    /// If the disk is full or fails.
    pub(super) async fn cleaned_film(
        &self,
        number: MediaNid,
        film: &Kept,
    ) -> Result<Option<(Kept, Digest)>, Error> {
        // Few have their tables in memory at once.
        let _place = self.place().await?;
        let read = async |span| {
            let reader = self.blobs().read(&film.name, &film.key, film.bytes, span).await?;
            reader.ok_or_else(no_such_media)
        };
        let mut survey = Survey::new(film.bytes);
        while let Some(span) = survey.wants() {
            let (mut reader, mut wanted) = (read(span).await?, Vec::new());
            while let Some(part) = reader.next().await? {
                wanted.extend_from_slice(&part);
            }
            if survey.give(&wanted).is_none() {
                return Ok(None);
            }
        }
        let Some(plan) = survey.plan() else { return Ok(None) };
        let (mut reader, mut at) = (read((0, film.bytes)).await?, 0);
        let mut writer = self.blobs().begin(number.0).await?;
        let mut content = digest::Context::new(&digest::SHA256);
        while let Some(part) = reader.next().await? {
            let mut part = part.to_vec();
            plan.apply(at, &mut part);
            at += part.len() as u64;
            content.update(&part);
            writer.write(&part).await?;
        }
        Ok(Some((writer.finish().await?, self.content_digest(content.finish().as_ref()))))
    }
}

#[cfg(test)]
pub(crate) mod tests;
