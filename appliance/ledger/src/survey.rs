//! Looking through the whole store: does every row open, does the audit chain hold, what takes how
//! much room.

use std::ops::Bound;

use appliance_engine::{Direction, KeyRange, Read, Row as EngineRow, Space};
use appliance_model::{Error, Position};

use crate::codec::Row;
use crate::keyspaces::{ALL, AUDIT, DATA_KEYS, STORE};
use crate::lane::audit_link;
use crate::ledger::Ledger;
use crate::rows::{AuditRow, StoreRow};
use crate::view::store_error;

/// Rows read at once: a few megabytes at most.
const PAGE: usize = 500;

/// Damaged rows that are named; beyond that they are counted.
pub const NAMED_MAX: usize = 100;

/// What a survey found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Each keyspace that has rows.
    pub keyspaces: Vec<KeyspaceSurvey>,
    /// Rows that do not open: keyspace and key in hexadecimal, at most [`NAMED_MAX`].
    pub damaged: Vec<String>,
    /// Where the audit chain breaks: the positions of rows that do not follow from the row before,
    /// at most [`NAMED_MAX`].
    pub broken_links: Vec<u64>,
    /// The newest position when the survey began.
    pub position: u64,
}

/// What one keyspace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceSurvey {
    /// Its name on the page of keyspaces.
    pub name: &'static str,
    /// Its rows.
    pub rows: u64,
    /// Keys and sealed values, in bytes.
    pub bytes: u64,
    /// Rows that do not open.
    pub damaged: u64,
}

impl Survey {
    /// Whether everything is as it was written.
    pub fn is_whole(&self) -> bool {
        self.broken_links.is_empty() && self.keyspaces.iter().all(|keyspace| keyspace.damaged == 0)
    }
}

impl Ledger {
    /// Reads every row; `open` says whether to unseal it too. Readers and the lane go on meanwhile.
    ///
    /// # Errors
    ///
    /// If the engine fails. A damaged row is no error but a finding.
    pub async fn survey(&self, open: bool) -> Result<Survey, Error> {
        let mut survey = Survey { position: self.position().0, ..Survey::default() };
        for byte in 0..=u8::MAX {
            let found = self.survey_space(Space(byte), open, &mut survey).await?;
            if found.rows > 0 {
                survey.keyspaces.push(found);
            }
        }
        if open {
            self.survey_audit(&mut survey).await?;
        }
        Ok(survey)
    }

    async fn survey_space(
        &self,
        space: Space,
        open: bool,
        survey: &mut Survey,
    ) -> Result<KeyspaceSurvey, Error> {
        let name = ALL.iter().find(|(byte, ..)| *byte == space.0).map_or("unknown", |k| k.1);
        let mut found = KeyspaceSurvey { name, ..KeyspaceSurvey::default() };
        // Data keys are sealed under the master key, and were opened before the store was.
        let open = open && space != DATA_KEYS.space;
        let mut pages = Pages::new(space);
        while let Some(rows) = pages.next(&**self.engine()).await? {
            for (key, sealed) in &rows {
                found.rows += 1;
                found.bytes += (key.len() + sealed.len()) as u64;
                if open && self.vault().open(space, key, sealed).is_err() {
                    found.damaged += 1;
                    if survey.damaged.len() < NAMED_MAX {
                        survey.damaged.push(format!("{name} {}", hex(key)));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Follows the chain from the first row. Rows that do not open are counted elsewhere.
    async fn survey_audit(&self, survey: &mut Survey) -> Result<(), Error> {
        let mut link: Option<Vec<u8>> = Some(Vec::new());
        let mut pages = Pages::new(AUDIT.space);
        while let Some(rows) = pages.next(&**self.engine()).await? {
            for (key, sealed) in &rows {
                let position = <[u8; 8]>::try_from(&key[..]).map_or(0, u64::from_be_bytes);
                let row = self.vault().open(AUDIT.space, key, sealed).ok();
                let row = row.and_then(|bytes| AuditRow::from_bytes(&bytes));
                let follows = match (&link, &row) {
                    (Some(before), Some(row)) => {
                        row.link == audit_link(before, row.at_ms, &row.facts)
                    }
                    // After a row that does not open, the chain is taken up again.
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                if !follows && survey.broken_links.len() < NAMED_MAX {
                    survey.broken_links.push(position);
                }
                link = row.map(|row| row.link);
            }
        }
        self.survey_audit_end(link, survey).await
    }

    /// Nothing may be missing at the end: the store's own row names the last link.
    async fn survey_audit_end(
        &self,
        last: Option<Vec<u8>>,
        survey: &mut Survey,
    ) -> Result<(), Error> {
        // The lane may have gone on since the last page; then there is nothing to compare.
        let store: Option<StoreRow> = self.get(&STORE, &()).await?;
        let is_same_moment = self.position() == Position(survey.position);
        let ends_there = store.is_none_or(|store| last.is_none_or(|l| l == store.audit_link));
        if is_same_moment && !ends_there {
            survey.broken_links.push(survey.position);
        }
        Ok(())
    }
}

/// The rows of one space, page by page.
pub(crate) struct Pages {
    space: Space,
    range: Option<KeyRange>,
}

impl Pages {
    pub(crate) fn new(space: Space) -> Self {
        Self { space, range: Some(KeyRange::prefix(&[])) }
    }

    /// The next page; none after the last.
    pub(crate) async fn next(
        &mut self,
        engine: &(impl Read + ?Sized),
    ) -> Result<Option<Vec<EngineRow>>, Error> {
        let Some(range) = self.range.take() else { return Ok(None) };
        let page =
            engine.scan(self.space, &range, Direction::Forward, PAGE).await.map_err(store_error)?;
        if let (true, Some((last, _))) = (page.more, page.rows.last()) {
            let from = Bound::Excluded(last.to_vec());
            self.range = Some(KeyRange { from, to: Bound::Unbounded });
        }
        Ok(Some(page.rows))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use appliance_engine::{Batch, Engine, Write};
    use appliance_model::UserNid;
    use appliance_rules::Permit;

    use super::*;
    use crate::codec::KeyPart;
    use crate::keyspaces::USERS;
    use crate::rows::UserRow;
    use crate::scenario::Store;

    async fn store_with_users(count: u64) -> Store {
        let store = Store::new().await;
        for number in 1..=count {
            let mut commit = store.ledger.begin(Permit::own("user.seen", "@a:h", "@a:h"));
            let row = UserRow { user_id: format!("@user{number}:h") };
            commit.put(&USERS, &UserNid(number), &row);
            store.ledger.commit(commit).await.unwrap();
        }
        store
    }

    async fn overwrite(store: &Store, space: Space, key: Vec<u8>, value: Vec<u8>) {
        let writes = vec![Write::Put(space, key, value)];
        store.engine.commit(vec![Batch { preconditions: vec![], writes }]).await.unwrap();
    }

    #[tokio::test]
    async fn a_whole_store_is_counted_over_several_pages() {
        let store = store_with_users(1_203).await;
        let survey = store.ledger.survey(true).await.unwrap();
        assert!(survey.is_whole(), "{survey:?}");
        let users = survey.keyspaces.iter().find(|keyspace| keyspace.name == "USERS").unwrap();
        assert_eq!(users.rows, 1_203);
        let audit = survey.keyspaces.iter().find(|keyspace| keyspace.name == "AUDIT").unwrap();
        assert_eq!(audit.rows, 1_203);
    }

    #[tokio::test]
    async fn a_flipped_bit_is_named() {
        let store = store_with_users(3).await;
        let key = UserNid(2).to_key();
        let sealed = store.engine.get(USERS.space, &key).await.unwrap().unwrap();
        let mut flipped = sealed.to_vec();
        flipped[20] ^= 1;
        overwrite(&store, USERS.space, key, flipped).await;
        let survey = store.ledger.survey(true).await.unwrap();
        assert!(!survey.is_whole());
        assert_eq!(survey.damaged, ["USERS 0000000000000002"]);
        assert!(
            store.ledger.survey(false).await.unwrap().is_whole(),
            "only counting opens nothing"
        );
    }

    #[tokio::test]
    async fn an_audit_row_that_is_missing_or_swapped_breaks_the_chain() {
        let store = store_with_users(5).await;
        let third = Position(3).to_key();
        let writes = vec![Write::Delete(AUDIT.space, third)];
        store.engine.commit(vec![Batch { preconditions: vec![], writes }]).await.unwrap();
        assert_eq!(store.ledger.survey(true).await.unwrap().broken_links, [4]);

        let store = store_with_users(5).await;
        let last = Position(5).to_key();
        let writes = vec![Write::Delete(AUDIT.space, last)];
        store.engine.commit(vec![Batch { preconditions: vec![], writes }]).await.unwrap();
        assert_eq!(store.ledger.survey(true).await.unwrap().broken_links, [5], "a cut end");
    }
}
