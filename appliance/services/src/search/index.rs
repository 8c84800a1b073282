//! The words of messages, in tantivy. It knows numbers and words, nothing of people. All calls block.

use std::collections::BTreeSet;
use std::ops::Bound;

use appliance_ledger::SealedFolder;
use tantivy::collector::{Count, TopDocs};
use tantivy::directory::RamDirectory;
use tantivy::indexer::{LogMergePolicy, NoMergePolicy};
use tantivy::query::{
    BooleanQuery, ConstScoreQuery, Occur, Query, RangeQuery, TermQuery, TermSetQuery,
};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer,
};
use tantivy::{
    DocAddress, Index, IndexReader, IndexSettings, IndexWriter, Order, ReloadPolicy, Searcher,
    TantivyDocument, TantivyError, Term,
};

use super::directory::SealedDirectory;

/// What a writer may hold in memory: the least that tantivy takes.
const WRITER_BYTES: usize = 15_000_000;
/// Longer "words" are no words.
const WORD_BYTES_MAX: usize = 64;
/// Words of one search.
const WORDS_MAX: usize = 16;
const ANALYZER: &str = "wardstone";

/// Which part of an event a word stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Body,
    Name,
    Topic,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An event says this.
    Add { event: u64, room: u64, place: i64, part: Part, text: String },
    /// An event is to be found no more.
    Remove { event: u64 },
}

/// What to look for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub words: Vec<String>,
    pub parts: Vec<Part>,
    pub rooms: Vec<u64>,
    /// Only events up to this place.
    pub upto: Option<i64>,
    pub newest_first: bool,
    pub skip: usize,
    pub limit: usize,
}

/// Events with their rank, if they are ranked, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hits {
    pub events: Vec<(u64, Option<f32>)>,
    pub count: usize,
}

/// The index.
pub(super) struct TextIndex {
    index: Index,
    reader: IndexReader,
    writer: Option<IndexWriter>,
    fields: Fields,
    /// Everything up to this position is in.
    reached: u64,
    /// Words were removed that a segment still holds.
    has_removed: bool,
}

#[derive(Clone, Copy)]
struct Fields {
    event: Field,
    room: Field,
    place: Field,
    body: Field,
    name: Field,
    topic: Field,
}

impl Fields {
    fn schema() -> (Self, Schema) {
        let mut schema = Schema::builder();
        // Neither the text itself nor the places of words in it: what was said stays in the store.
        let words = TextOptions::default().set_indexing_options(
            TextFieldIndexing::default()
                .set_tokenizer(ANALYZER)
                .set_index_option(IndexRecordOption::WithFreqs),
        );
        let fields = Self {
            event: schema.add_u64_field("event", INDEXED | FAST),
            room: schema.add_u64_field("room", INDEXED),
            place: schema.add_u64_field("place", FAST),
            body: schema.add_text_field("body", words.clone()),
            name: schema.add_text_field("name", words.clone()),
            topic: schema.add_text_field("topic", words),
        };
        (fields, schema.build())
    }

    fn of(self, part: Part) -> Field {
        match part {
            Part::Body => self.body,
            Part::Name => self.name,
            Part::Topic => self.topic,
        }
    }
}

fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .build()
}

/// The different words of a text, as they are looked for.
pub(super) fn words_of(text: &str) -> Vec<String> {
    let (mut analyzer, mut words) = (analyzer(), Vec::new());
    let mut tokens = analyzer.token_stream(text);
    while let Some(token) = tokens.next() {
        if words.len() == WORDS_MAX {
            break;
        }
        if !words.contains(&token.text) {
            words.push(token.text.clone());
        }
    }
    words
}

impl TextIndex {
    /// Opens the index in a folder, or an empty one in memory.
    ///
    /// # Errors
    ///
    /// If the files are damaged, or of another form than this version writes.
    pub fn open(folder: Option<SealedFolder>) -> Result<Self, TantivyError> {
        let (fields, schema) = Fields::schema();
        let settings =
            IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
        let index = match folder {
            Some(folder) => {
                let directory = SealedDirectory::new(folder);
                if Index::exists(&directory)? {
                    Index::open(directory)?
                } else {
                    Index::create(directory, schema.clone(), settings)?
                }
            }
            None => Index::create(RamDirectory::create(), schema.clone(), settings)?,
        };
        if index.schema() != schema {
            return Err(TantivyError::SchemaError("of another version".to_owned()));
        }
        index.tokenizers().register(ANALYZER, analyzer());
        let meta = index.load_metas()?;
        let reached = meta.payload.and_then(|reached| reached.parse().ok()).unwrap_or_default();
        let has_removed = meta.segments.iter().any(|segment| segment.has_deletes());
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { index, reader, writer: None, fields, reached, has_removed })
    }

    /// Everything up to this position is in.
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// Makes changes, which are on the disk when this returns, together with how far they reach.
    ///
    /// # Errors
    ///
    /// If the disk refuses or the index is damaged; then nothing has changed.
    pub fn apply(&mut self, changes: Vec<Change>, reached: u64) -> Result<(), TantivyError> {
        let fields = self.fields;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let writer = self.index.writer_with_num_threads(1, WRITER_BYTES)?;
                writer.set_merge_policy(Box::new(LogMergePolicy::default()));
                none.insert(writer)
            }
        };
        for change in changes {
            match change {
                Change::Remove { event } => {
                    writer.delete_term(Term::from_field_u64(fields.event, event));
                    self.has_removed = true;
                }
                Change::Add { event, room, place, part, text } => {
                    let mut document = TantivyDocument::default();
                    document.add_u64(fields.event, event);
                    document.add_u64(fields.room, room);
                    document.add_u64(fields.place, ordered(place));
                    document.add_text(fields.of(part), text);
                    writer.add_document(document)?;
                }
            }
        }
        let mut prepared = writer.prepare_commit()?;
        prepared.set_payload(&reached.to_string());
        prepared.commit()?;
        self.reached = reached;
        self.reader.reload()
    }

    /// Writes segments anew that still hold words of removed events.
    ///
    /// # Errors
    ///
    /// As [`TextIndex::apply`].
    pub fn forget_removed(&mut self) -> Result<(), TantivyError> {
        if !self.has_removed {
            return Ok(());
        }
        let writer: IndexWriter = match self.writer.take() {
            Some(writer) => writer,
            None => self.index.writer_with_num_threads(1, WRITER_BYTES)?,
        };
        // Merges under way must not take away what is to be merged here.
        writer.set_merge_policy(Box::new(NoMergePolicy));
        writer.wait_merging_threads()?;
        let mut writer: IndexWriter = self.index.writer_with_num_threads(1, WRITER_BYTES)?;
        writer.set_merge_policy(Box::new(NoMergePolicy));
        for segment in self.index.load_metas()?.segments {
            if segment.has_deletes() {
                writer.merge(&[segment.id()]).wait()?;
            }
        }
        writer.garbage_collect_files().wait()?;
        writer.wait_merging_threads()?;
        self.has_removed = false;
        self.reader.reload()
    }

    /// Looks for events that hold all of the words.
    ///
    /// # Errors
    ///
    /// If the index is damaged.
    pub fn find(&self, wanted: &Wanted) -> Result<Hits, TantivyError> {
        if wanted.words.is_empty() || wanted.rooms.is_empty() || wanted.parts.is_empty() {
            return Ok(Hits::default());
        }
        let (query, searcher) = (self.query(wanted), self.reader.searcher());
        let top = TopDocs::with_limit(wanted.limit.max(1)).and_offset(wanted.skip);
        let (found, count) = if wanted.newest_first {
            let by_place = top.order_by_u64_field("place", Order::Desc);
            let (found, count) = searcher.search(&query, &(by_place, Count))?;
            let found = found.into_iter().map(|(_, address)| (address, None)).collect::<Vec<_>>();
            (found, count)
        } else {
            let (found, count) = searcher.search(&query, &(top.order_by_score(), Count))?;
            let ranked = found.into_iter().map(|(rank, address)| (address, Some(rank)));
            (ranked.collect(), count)
        };
        let mut events = Vec::with_capacity(found.len());
        for (address, rank) in found {
            events.extend(event_at(&searcher, address)?.map(|event| (event, rank)));
        }
        Ok(Hits { events, count })
    }

    fn query(&self, wanted: &Wanted) -> BooleanQuery {
        let fields = self.fields;
        let mut all: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for word in &wanted.words {
            let anywhere = wanted.parts.iter().map(|part| {
                let term = Term::from_field_text(fields.of(*part), word);
                let query: Box<dyn Query> =
                    Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
                (Occur::Should, query)
            });
            all.push((Occur::Must, Box::new(BooleanQuery::new(anywhere.collect()))));
        }
        let rooms: BTreeSet<_> = wanted.rooms.iter().collect();
        let mut rooms = rooms.into_iter().map(|room| Term::from_field_u64(fields.room, *room));
        let mut filters: Vec<Box<dyn Query>> = Vec::new();
        filters.push(match (rooms.next(), rooms.len()) {
            // A set of terms is made into an automaton first, which is dear for a single one.
            (Some(room), 0) => Box::new(TermQuery::new(room, IndexRecordOption::Basic)),
            (first, _) => Box::new(TermSetQuery::new(first.into_iter().chain(rooms))),
        });
        if let Some(upto) = wanted.upto {
            let place =
                |place: i64| Bound::Included(Term::from_field_u64(fields.place, ordered(place)));
            filters.push(Box::new(RangeQuery::new(place(i64::MIN), place(upto))));
        }
        // Where and when says nothing about how well it fits.
        for filter in filters {
            all.push((Occur::Must, Box::new(ConstScoreQuery::new(filter, 0.0))));
        }
        BooleanQuery::new(all)
    }
}

fn event_at(searcher: &Searcher, address: DocAddress) -> Result<Option<u64>, TantivyError> {
    let segment = searcher.segment_reader(address.segment_ord);
    Ok(segment.fast_fields().u64("event")?.first(address.doc_id))
}

/// Places sort by value also as unsigned numbers: the sign bit is turned over.
fn ordered(place: i64) -> u64 {
    place.cast_unsigned() ^ (1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(event: u64, text: &str) -> Change {
        let place = event.cast_signed();
        Change::Add { event, room: event % 2, place, part: Part::Body, text: text.to_owned() }
    }

    fn find(index: &TextIndex, text: &str, rooms: &[u64], newest_first: bool) -> Vec<u64> {
        let wanted = Wanted {
            words: words_of(text),
            parts: vec![Part::Body, Part::Name, Part::Topic],
            rooms: rooms.to_vec(),
            upto: None,
            newest_first,
            skip: 0,
            limit: 10,
        };
        index.find(&wanted).unwrap().events.into_iter().map(|(event, _)| event).collect()
    }

    #[test]
    fn words_are_folded_and_all_of_them_must_be_there() {
        let mut index = TextIndex::open(None).unwrap();
        let changes = vec![
            says(1, "Bett vier ist FREI, Señor"),
            says(2, "Bett fünf"),
            says(3, "frei frei frei Bett"),
            Change::Add { event: 5, room: 1, place: 5, part: Part::Topic, text: "Bett".to_owned() },
        ];
        index.apply(changes, 9).unwrap();
        assert_eq!(index.reached(), 9);
        assert_eq!(find(&index, "bett", &[0, 1], true), [5, 3, 2, 1]);
        assert_eq!(find(&index, "bett", &[0], true), [2]);
        assert_eq!(find(&index, "frei bett", &[0, 1], false), [3, 1], "the better match first");
        assert_eq!(find(&index, "funf", &[0, 1], true), [2]);
        assert_eq!(find(&index, "senor", &[0, 1], true), [1]);
        assert!(find(&index, "bet", &[0, 1], true).is_empty(), "whole words only");
        assert!(find(&index, "?!", &[0, 1], true).is_empty());
        assert!(find(&index, "bett", &[], true).is_empty());
        index.apply(vec![Change::Remove { event: 3 }], 10).unwrap();
        assert_eq!(find(&index, "frei", &[0, 1], true), [1]);
        index.forget_removed().unwrap();
        assert_eq!(find(&index, "bett", &[0, 1], true), [5, 2, 1]);
        index.apply(vec![says(7, "Bett")], 11).unwrap();
        assert_eq!(find(&index, "bett", &[1], true), [7, 5, 1]);
    }
}
