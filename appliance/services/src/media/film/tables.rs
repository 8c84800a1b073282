//! The boxes and tables of films, as ISO/IEC 14496-12 and QuickTime describe them: which of them a player needs,
//! and where they say that picture and sound lie.

/// Length and kind; the length in 64 bits, where it has them, follows.
pub(super) const HEAD_BYTES: usize = 8;
pub(super) const LONG_HEAD_BYTES: usize = 16;

/// From and to.
pub(super) type Span = (u64, u64);
pub(super) type BoxKind = [u8; 4];

/// Kind, length of the head, and length of the whole, which is not more than there is.
pub(super) fn head_of(bytes: &[u8], there: u64) -> Option<(BoxKind, u64, u64)> {
    let kind = *bytes.get(4..)?.first_chunk()?;
    let (head_bytes, length) = match u64::from(u32_at(bytes, 0)?) {
        // "If size is 0, then this box is the last one, and its contents extend to the end."
        0 => (HEAD_BYTES, there),
        1 => (LONG_HEAD_BYTES, u64_at(bytes, HEAD_BYTES)?),
        length => (HEAD_BYTES, length),
    };
    let head_bytes = head_bytes as u64;
    (head_bytes <= length && length <= there).then_some((kind, head_bytes, length))
}

/// The first box, as kind and its head, content, and what is behind it.
pub(super) fn split_box(bytes: &mut [u8]) -> Option<(BoxKind, [&mut [u8]; 3])> {
    let (kind, head_bytes, length) = head_of(bytes, bytes.len() as u64)?;
    let (one, behind) = bytes.split_at_mut(usize::try_from(length).ok()?);
    let (head, content) = one.split_at_mut(usize::try_from(head_bytes).ok()?);
    Some((kind, [head, content, behind]))
}

/// What a player needs besides what is looked into.
pub(super) fn is_needed(parent: &BoxKind, kind: &BoxKind) -> bool {
    let needed: &[&BoxKind] = match parent {
        b"trak" => &[b"tapt"],
        b"edts" => &[b"elst"],
        b"mvex" => &[b"mehd", b"trex", b"leva"],
        b"minf" => &[b"vmhd", b"smhd"],
        b"stbl" => &[
            b"stts", b"ctts", b"cslg", b"stss", b"stsc", b"stsz", b"stz2", b"stco", b"co64",
            b"stsh", b"padb", b"stdp", b"sdtp", b"sbgp", b"sgpd", b"subs",
        ],
        b"stsd" => &[
            b"avcC", b"hvcC", b"lhvC", b"vvcC", b"av1C", b"vpcC", b"esds", b"d263", b"damr",
            b"colr", b"pasp", b"clap", b"fiel", b"gama", b"btrt", b"bitr", b"clli", b"mdcv",
            b"SmDm", b"CoLL", b"amve", b"dvcC", b"dvvC", b"dvwC", b"wave", b"chan", b"chnl",
            b"pcmC", b"srat", b"dOps", b"dfLa", b"alac", b"dac3", b"dec3", b"dac4", b"dmlp",
        ],
        b"moof" => &[b"mfhd"],
        b"traf" => &[b"tfhd", b"tfdt", b"trun", b"sdtp", b"sbgp", b"sgpd", b"subs"],
        _ => &[],
    };
    needed.contains(&kind)
}

/// Picture and sound whose samples hold nothing else.
pub(super) fn is_codec(kind: &BoxKind) -> bool {
    let visual: &[&BoxKind] = &[
        b"avc1", b"avc3", b"hvc1", b"hev1", b"dvh1", b"dvhe", b"dva1", b"dvav", b"vvc1", b"vvi1",
        b"av01", b"vp08", b"vp09", b"mp4v", b"s263", b"h263", b"apco", b"apcs", b"apcn", b"apch",
        b"ap4h", b"ap4x",
    ];
    let sound: &[&BoxKind] = &[
        b"mp4a", b"samr", b"sawb", b"ac-3", b"ec-3", b"ac-4", b"Opus", b"fLaC", b"alac", b"lpcm",
        b"sowt", b"twos", b"in24", b"in32", b"fl32", b"ipcm", b"fpcm", b"ulaw", b"alaw", b"apac",
    ];
    visual.contains(&kind) || sound.contains(&kind)
}

/// When it was made and changed last.
pub(super) fn forget_times(content: &mut [u8]) -> Option<()> {
    let times_bytes = if *content.first()? == 1 { 16 } else { 8 };
    content.get_mut(4..4 + times_bytes)?.fill(0);
    Some(())
}

/// The first box of each kind on the way down.
fn find<'a>(mut content: &'a [u8], path: &[&BoxKind]) -> Option<&'a [u8]> {
    for wanted in path {
        let mut rest = content;
        content = loop {
            let (kind, head_bytes, length) = head_of(rest, rest.len() as u64)?;
            let (one, behind) = rest.split_at(usize::try_from(length).ok()?);
            if kind == **wanted {
                break &one[usize::try_from(head_bytes).ok()?..];
            }
            rest = behind;
        };
    }
    Some(content)
}

pub(super) fn handler_of(track: &[u8]) -> Option<&BoxKind> {
    find(track, &[b"mdia", b"hdlr"])?.get(8..)?.first_chunk()
}

/// Where a track's samples lie; none if its tables do not agree.
pub(super) fn chunks_of(track: &[u8], is_visual: bool, chunks_max: usize) -> Option<Vec<Span>> {
    let stbl = find(track, &[b"mdia", b"minf", b"stbl"])?;
    let samples = Samples::of(stbl)?;
    // In QuickTime's sound the sizes may count samples of one channel, not bytes.
    let sound_version = u16_at(find(stbl, &[b"stsd"])?, 24);
    if !is_visual && (samples.fixed == 1 || samples.fixed != 0 && sound_version != Some(0)) {
        return None;
    }
    let (offsets, width) = match find(stbl, &[b"stco"]) {
        Some(offsets) => (offsets, 4),
        None => (find(stbl, &[b"co64"])?, 8),
    };
    let count = usize::try_from(u32_at(offsets, 4)?).ok()?;
    let offsets = offsets.get(8..)?.get(..count.checked_mul(width)?)?;
    if count > chunks_max {
        return None;
    }
    let runs = find(stbl, &[b"stsc"])?;
    let runs_bytes = usize::try_from(u32_at(runs, 4)?).ok()?.checked_mul(12)?;
    let mut runs = runs.get(8..)?.get(..runs_bytes)?.chunks_exact(12).peekable();
    let mut chunks = Vec::with_capacity(count);
    let (mut sample, mut in_chunk) = (0_u32, 0);
    for (index, offset) in (1_u32..).zip(offsets.chunks_exact(width)) {
        while let Some(run) = runs.next_if(|run| u32_at(run, 0) == Some(index)) {
            in_chunk = u32_at(run, 4)?;
        }
        let next = sample.saturating_add(in_chunk).min(samples.count);
        let offset = if width == 4 { u64::from(u32_at(offset, 0)?) } else { u64_at(offset, 0)? };
        let bytes = samples.bytes(sample, next)?;
        chunks.push((offset, offset.checked_add(bytes)?));
        sample = next;
    }
    (sample == samples.count && runs.next().is_none()).then_some(chunks)
}

/// How long the samples of a track are.
struct Samples<'a> {
    count: u32,
    /// All of them; 0 if each has a length of its own.
    fixed: u32,
    /// In the table, in bits.
    width: usize,
    table: &'a [u8],
}

impl<'a> Samples<'a> {
    fn of(stbl: &'a [u8]) -> Option<Self> {
        let (sizes, fixed, width) = match find(stbl, &[b"stsz"]) {
            Some(sizes) => (sizes, u32_at(sizes, 4)?, 32),
            None => {
                let sizes = find(stbl, &[b"stz2"])?;
                (sizes, 0, usize::from(*sizes.get(7)?))
            }
        };
        let count = u32_at(sizes, 8)?;
        let table = sizes.get(12..)?;
        let is_whole = || {
            let bits = usize::try_from(count).ok()?.checked_mul(width)?;
            table.get(..bits.div_ceil(8))
        };
        if fixed == 0 && (!matches!(width, 4 | 8 | 16 | 32) || is_whole().is_none()) {
            return None;
        }
        Some(Self { count, fixed, width, table })
    }

    /// Of the samples `from` (included) to `to` (excluded) together.
    fn bytes(&self, from: u32, to: u32) -> Option<u64> {
        if self.fixed != 0 {
            return u64::from(to - from).checked_mul(u64::from(self.fixed));
        }
        (from..to).map(|sample| self.one(usize::try_from(sample).ok()?)).sum()
    }

    fn one(&self, sample: usize) -> Option<u64> {
        let at = sample * self.width / 8;
        Some(match self.width {
            32 => u64::from(u32_at(self.table, at)?),
            16 => u64::from(u16_at(self.table, at)?),
            8 => u64::from(*self.table.get(at)?),
            // "two values are packed into each byte", the first in the upper half.
            _ => u64::from(*self.table.get(at)? >> (4 * (1 - sample % 2)) & 15),
        })
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
