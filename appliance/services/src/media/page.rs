//! What a web page says of itself, for a preview: [Open Graph] properties, its title, its description.
//!
//! The page is anybody's: a tokenizer reads it in one pass, no tree is built, and what is kept is
//! bounded.
//!
//! [Open Graph]: https://ogp.me

use std::cell::RefCell;
use std::collections::BTreeMap;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

/// Properties kept. Pages have about ten.
const PROPERTIES_MAX: usize = 32;
/// A property's name and value. What is longer is no title and no address.
const NAME_BYTES_MAX: usize = 64;
const VALUE_CHARS_MAX: usize = 2_000;

/// The properties of a page.
pub type Properties = BTreeMap<String, String>;

/// Reads a page. Never fails: what makes no sense says nothing.
pub fn properties(page: &str) -> Properties {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(page));
    let tokenizer = Tokenizer::new(Reader::default(), TokenizerOpts::default());
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner().finish()
}

#[derive(Default)]
struct Reader(RefCell<Found>);

#[derive(Default)]
struct Found {
    properties: Properties,
    title: Option<String>,
    description: Option<String>,
    in_title: bool,
    /// The head is over: what follows is for readers.
    over: bool,
}

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut found = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) => found.take_tag(&tag),
            Token::CharacterTokens(text) if found.in_title => {
                found.add_to_title(&text);
                TokenSinkResult::Continue
            }
            _ => TokenSinkResult::Continue,
        }
    }
}

impl Found {
    fn take_tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let is_start = tag.kind == TagKind::StartTag;
        match (&*tag.name, is_start) {
            ("title", _) => {
                self.in_title = is_start && !self.over && self.title.is_none();
                if is_start {
                    return TokenSinkResult::RawData(RawKind::Rcdata);
                }
            }
            ("meta", true) if !self.over => self.take_meta(tag),
            ("body", true) | ("head", false) => self.over = true,
            ("script", true) => return TokenSinkResult::RawData(RawKind::ScriptData),
            ("style" | "xmp" | "iframe" | "noembed" | "noframes", true) => {
                return TokenSinkResult::RawData(RawKind::Rawtext);
            }
            ("textarea", true) => return TokenSinkResult::RawData(RawKind::Rcdata),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn take_meta(&mut self, tag: &Tag) {
        let attribute = |name: &str| {
            let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name);
            found.map(|attribute| &*attribute.value)
        };
        let Some(name) = attribute("property").or_else(|| attribute("name")) else { return };
        let Some(value) = attribute("content").map(cut).filter(|value| !value.is_empty()) else {
            return;
        };
        let name = name.trim().to_ascii_lowercase();
        if name == "description" && self.description.is_none() {
            self.description = Some(value);
        } else if name.starts_with("og:")
            && name.len() <= NAME_BYTES_MAX
            && self.properties.len() < PROPERTIES_MAX
        {
            // "If a tag can have multiple values … the first tag … is given preference."
            self.properties.entry(name).or_insert(value);
        }
    }

    fn add_to_title(&mut self, text: &str) {
        let title = self.title.get_or_insert_default();
        let left = VALUE_CHARS_MAX.saturating_sub(title.chars().count());
        title.extend(text.chars().take(left));
    }

    fn finish(self) -> Properties {
        let mut properties = self.properties;
        for (name, value) in [("og:title", self.title), ("og:description", self.description)] {
            let value = value.map(|text| cut(&text)).filter(|text| !text.is_empty());
            if let Some(value) = value {
                properties.entry(name.to_owned()).or_insert(value);
            }
        }
        properties
    }
}

/// One line without blanks around it, as long as a preview shows.
fn cut(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(VALUE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(page: &str) -> Vec<(String, String)> {
        properties(page).into_iter().collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_head_says_what_the_page_is() {
        let page = "<!doctype html><html><head><title>Bed &amp;\n plan</title>\
            <meta name=description content='  who lies\twhere '>\
            <meta property='og:image' content=/a.png><META PROPERTY=og:image CONTENT=/b.png>\
            <script>document.write(\"<meta property='og:evil' content='x'>\")</script>\
            </head><body><meta property=og:late content=x>";
        let expected = [
            pair("og:description", "who lies where"),
            pair("og:image", "/a.png"),
            pair("og:title", "Bed & plan"),
        ];
        assert_eq!(of(page), expected);
        let own = "<title>x</title><meta property=og:title content=y>";
        assert_eq!(of(own), [pair("og:title", "y")]);
    }

    #[test]
    fn what_makes_no_sense_is_bounded_and_says_nothing() {
        for page in ["", "<", "<meta", "<title>", "\0\u{fffd}", "<meta property=og:x>", "<!--"] {
            assert_eq!(of(page), [], "{page}");
        }
        let many: String =
            (0..1_000).map(|n| format!("<meta property=og:{n} content=x>")).collect();
        assert_eq!(of(&many).len(), PROPERTIES_MAX);
        let long = format!("<title>{}</title>", "x".repeat(100_000));
        assert_eq!(of(&long)[0].1.len(), VALUE_CHARS_MAX);
        let deep = "<div>".repeat(100_000);
        assert_eq!(of(&deep), []);
    }
}
