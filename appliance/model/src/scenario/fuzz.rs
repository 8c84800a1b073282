//! Strange input for what reads the input of strangers.
//!
//! A fuzz target is an ordinary test: a loop over [`Inputs`], which gives the seeds first, then what
//! is kept in the target's folder, then mutations of both, for as long as the environment says:
//!
//! * `FUZZ_SECONDS`: how long each target runs (`make fuzz SECONDS=60`). Without it a target looks at
//!   a fixed number of inputs that are the same in every run: that is what `make test` does.
//! * `FUZZ_SEED`: the chance by which mutations are made, printed with every finding.
//!
//! A target that panics, or thinks about one input for longer than [`THINKING_MAX`], fails, and the
//! input is printed. Put it into `fuzz/<target>/` of the crate: from then on every run begins with it.
//!
//! There is no instrumentation: what steers the mutations is the seeds and the words of the formats,
//! not which code they reach. That costs nothing but the tests' own build, on the stable compiler.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use super::SeededDice;
use crate::clock::Dice;

/// Inputs of a run without a time: a second or two of a slow target.
const INPUTS: u64 = 400;
/// No mutation makes an input larger.
const BYTES_MAX: usize = 64 * 1024;
/// Mutations of one input.
const MUTATIONS_MAX: u64 = 6;
/// Reading takes milliseconds; what takes longer than this by far grows too fast with its input.
pub const THINKING_MAX: Duration = Duration::from_secs(10);

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b"\"\"",
    b"0",
    b"-1",
    b"-0",
    b"1e400",
    b"1.5",
    b"9007199254740993",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"99999999999999999999999999999999",
    b"\0",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    "\u{202e}\u{0}\u{1f9b5}".as_bytes(),
    b"%00",
    b"%2f..%2f",
    b"%",
    b"*",
    b"?*?*?*?*",
    b"(a+)+$",
    b"::",
    b"[::1]:",
    b":65536",
    b"@:",
    b"!",
    b"$",
    b"#",
    b",",
    b"=",
    b";",
    b"-",
    b"s0_",
    b"t-",
    b"m.room.member",
    b"\"__proto__\":",
];

/// The inputs of one target.
pub struct Inputs {
    target: &'static str,
    base: Vec<Vec<u8>>,
    dice: SeededDice,
    seed: u64,
    given: u64,
    until: Option<Instant>,
    current: Vec<u8>,
    since: Option<Instant>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a person lets it run is no part of a scene"
)]
fn now() -> Instant {
    Instant::now()
}

impl Inputs {
    /// The inputs of `target`: `seeds`, and the files in `fuzz/<target>/` below `crate_folder`.
    ///
    /// # Panics
    ///
    /// If `FUZZ_SECONDS` or `FUZZ_SEED` is no number.
    pub fn of(target: &'static str, crate_folder: &str, seeds: &[&[u8]]) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty());
            text.map(|text| text.parse::<u64>().expect("a whole number of seconds, or a seed"))
        };
        let seconds = number("FUZZ_SECONDS");
        let chance = || RandomState::new().hash_one(target);
        let seed = number("FUZZ_SEED").unwrap_or_else(|| seconds.map_or(1, |_| chance()));
        let mut base: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
        let folder = Path::new(crate_folder).join("fuzz").join(target);
        let kept = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut kept: Vec<_> = kept.map(|entry| entry.path()).collect();
        kept.sort();
        base.extend(kept.iter().filter_map(|path| std::fs::read(path).ok()));
        assert!(!base.is_empty(), "{target} has no seed");
        Self {
            target,
            base,
            dice: SeededDice::new(seed),
            seed,
            given: 0,
            until: seconds.map(|seconds| now() + Duration::from_secs(seconds)),
            current: Vec::new(),
            since: None,
        }
    }

    /// The next input; none when it is enough.
    ///
    /// # Panics
    ///
    /// If the target thought about the last one for too long.
    #[expect(clippy::should_implement_trait, reason = "what it gives is lent")]
    pub fn next(&mut self) -> Option<&[u8]> {
        let thought = self.since.map(|since| now().duration_since(since)).unwrap_or_default();
        assert!(thought < THINKING_MAX, "thought about it for {thought:?}");
        let over = match self.until {
            Some(until) => now() >= until,
            None => self.given >= INPUTS,
        };
        let index = usize::try_from(self.given).unwrap_or(usize::MAX);
        if over && index >= self.base.len() {
            self.since = None;
            return None;
        }
        self.current = match self.base.get(index) {
            Some(seed) => seed.clone(),
            None => self.mutated(),
        };
        self.given += 1;
        self.since = Some(now());
        Some(&self.current)
    }

    /// The same as text, whatever is none made readable.
    pub fn next_text(&mut self) -> Option<String> {
        self.next().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.dice.number() % bound).unwrap_or_default()
    }

    /// A place in `bytes` and how many of them from there.
    fn part(&self, bytes: &[u8]) -> std::ops::Range<usize> {
        let from = self.below(bytes.len() + 1);
        // Mostly short, sometimes all that is left.
        let longest = if self.below(8) == 0 { bytes.len() - from } else { 8 };
        from..(from + self.below(longest + 1)).min(bytes.len())
    }

    fn mutated(&self) -> Vec<u8> {
        let mut bytes = self.base[self.below(self.base.len())].clone();
        for _ in 0..=self.dice.number() % MUTATIONS_MAX {
            let part = self.part(&bytes);
            match self.below(7) {
                0 if !bytes.is_empty() => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(part)),
                2 => {
                    let again = bytes[part.clone()].repeat(1 + self.below(64));
                    bytes.splice(part.start..part.start, again).for_each(drop);
                }
                3 => {
                    let other = &self.base[self.below(self.base.len())];
                    let other = other[self.part(other)].to_vec();
                    bytes.splice(part, other).for_each(drop);
                }
                4 if self.below(4) == 0 => bytes.truncate(part.start),
                _ => {
                    let word = WORDS[self.below(WORDS.len())];
                    bytes.splice(part, word.iter().copied()).for_each(drop);
                }
            }
            bytes.truncate(BYTES_MAX);
        }
        bytes
    }
}

impl Drop for Inputs {
    #[expect(clippy::print_stderr, reason = "a finding is for whoever reads the test's output")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { target, seed, current, .. } = self;
            let text = current.escape_ascii();
            eprintln!(
                "found by {target} (FUZZ_SEED={seed}), to be kept in fuzz/{target}/:\n{text}"
            );
        } else {
            // Shown by `make fuzz`, which lets tests speak.
            eprintln!("{}: {} inputs", self.target, self.given);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_come_first_and_mutations_are_many_and_the_same_again() {
        let all = || {
            let mut inputs = Inputs::of("none", "nowhere", &[b"{\"a\":1}", b"bytes=0-1"]);
            (inputs.until, inputs.dice) = (None, SeededDice::new(7));
            let mut all = Vec::new();
            while let Some(input) = inputs.next() {
                all.push(input.to_vec());
            }
            all
        };
        let first = all();
        assert_eq!((&first[0][..], &first[1][..]), (&b"{\"a\":1}"[..], &b"bytes=0-1"[..]));
        assert_eq!(first, all());
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 300, "{}", different.len());
        assert!(first.iter().all(|input| input.len() <= BYTES_MAX));
    }
}
