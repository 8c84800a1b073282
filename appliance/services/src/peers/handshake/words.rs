//! Words for check phrases: plain, short, and unlike each other on a bad line. Two hundred and fifty-six
//! of them, so that each stands for one byte.

/// The words, by the byte that they stand for. Their order is part of the handshake: two releases that
/// disagree show two phrases for one handshake.
#[rustfmt::skip]
pub(super) const WORDS: [&str; 256] = [
    "acorn", "acrobat", "agenda", "almond", "alpine", "amber", "anchor", "antelope", "apple",
    "apron", "artist", "athlete", "autumn", "avenue", "badge", "bakery", "bamboo", "banana",
    "barrel", "basket", "beach", "beaver", "berry", "bicycle", "bishop", "blossom", "bonnet",
    "bottle", "boulder", "brandy", "bread", "bronze", "broom", "buffalo", "butter", "cabbage",
    "cabin", "cactus", "camera", "candle", "carpet", "cellar", "census", "chalk", "cheese",
    "chestnut", "chimney", "chorus", "cinema", "circus", "clarinet", "clinic", "cloud", "clover",
    "coast", "coconut", "coffee", "college", "copper", "coral", "cotton", "courier", "cousin",
    "crayon", "cricket", "crystal", "cupboard", "curtain", "cushion", "daisy", "dancer", "decade",
    "deputy", "desert", "diamond", "diary", "doctor", "dolphin", "domino", "donkey", "dough",
    "drawer", "drizzle", "drum", "eagle", "earth", "eclipse", "editor", "elbow", "elephant",
    "eleven", "emerald", "empire", "engine", "equator", "estate", "evening", "eyebrow", "fabric",
    "falcon", "famous", "farmer", "feather", "fence", "festival", "fiction", "fiddle", "fifty",
    "figure", "finger", "flame", "flannel", "football", "forest", "fossil", "fountain", "freckle",
    "friday", "galaxy", "garden", "garlic", "gate", "giraffe", "glacier", "goblet", "gold",
    "gravel", "guitar", "harbor", "hazel", "helmet", "herring", "hickory", "horizon", "hospital",
    "iceberg", "igloo", "indigo", "island", "ivory", "jasmine", "jelly", "jewel", "jigsaw",
    "jungle", "juniper", "kelp", "kingdom", "kitchen", "ladder", "lagoon", "lantern", "lavender",
    "lemon", "lentil", "leopard", "library", "lily", "linen", "lizard", "lobster", "locket",
    "lunch", "magnet", "mango", "marble", "meadow", "mercury", "mint", "mirror", "mitten",
    "morning", "mosaic", "muffin", "museum", "mustard", "napkin", "needle", "nest", "nickel",
    "notebook", "nugget", "nutmeg", "oatmeal", "ocean", "olive", "onion", "orange", "orchid",
    "oregano", "oxygen", "palace", "panda", "paper", "parrot", "pasture", "pebble", "pelican",
    "piano", "pillow", "pirate", "planet", "pony", "potato", "prairie", "pumpkin", "puzzle",
    "quartz", "quilt", "rabbit", "radish", "rainbow", "reef", "ribbon", "river", "ruby", "saffron",
    "sailor", "sapphire", "scarf", "school", "sheriff", "shovel", "sketch", "snow", "sofa",
    "spider", "spinach", "squash", "stable", "stone", "summer", "sunset", "swan", "teapot",
    "temple", "thunder", "tower", "trumpet", "tulip", "tunnel", "turtle", "umbrella", "valley",
    "vanilla", "village", "vinegar", "violet", "volcano", "walnut", "wheat", "whistle", "window",
    "wool", "yogurt", "zebra",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_begin_alike() {
        let mut beginnings: Vec<_> = WORDS.iter().map(|word| &word[..4]).collect();
        beginnings.dedup();
        assert_eq!(beginnings.len(), 256);
        assert!(WORDS.is_sorted(), "so that neighbours are all there is to compare");
        let is_plain = |word: &str| word.len() <= 8 && word.bytes().all(|b| b.is_ascii_lowercase());
        assert!(WORDS.iter().all(|word| is_plain(word)));
    }
}
