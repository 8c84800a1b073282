//! Push rules ([spec]): which events make a user's devices ring. Kept as the account data
//! `m.push_rules`; until a user changes something, the predefined rules hold.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#push-rules

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_ledger::keyspaces::ACCOUNT_DATA;
use appliance_model::ruma::UserId;
use appliance_model::ruma::push::{
    Action, AnyPushRuleRef, HighlightTweakValue, NewPushRule, PatternedPushRuleInit, RuleKind,
    Ruleset, Tweak,
};
use appliance_model::{Caller, Error, Position, RoomNid, UserNid};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::json;

use super::Personal;

/// The account data type.
const KIND: &str = "m.push_rules";
/// Rulesets kept in memory, about 8 KB each.
const RULESETS_CACHED_MAX: usize = 1_000;

/// Rulesets by owner. The number counts changes: what was read before a change is not kept after it.
pub(super) struct KnownRules(Cache<UserNid, Arc<Ruleset>>, Mutex<u64>);

impl KnownRules {
    pub fn new() -> Self {
        Self(Cache::new(RULESETS_CACHED_MAX), Mutex::new(0))
    }

    fn changes(&self) -> MutexGuard<'_, u64> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, user: UserNid, rules: &Arc<Ruleset>, changes_before: u64) {
        let changes = self.changes();
        if *changes == changes_before {
            self.0.insert(user, rules.clone());
        }
    }

    fn forget(&self, user: UserNid) {
        *self.changes() += 1;
        self.0.remove(&user);
    }
}

/// Where a new rule goes.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Before this rule.
    pub before: Option<String>,
    /// After this rule.
    pub after: Option<String>,
}

#[derive(Deserialize)]
struct Stored {
    global: Ruleset,
}

impl Personal {
    /// A user's rules.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn push_rules(&self, user: UserNid, user_id: &UserId) -> Result<Arc<Ruleset>, Error> {
        if let Some(rules) = self.rules.0.get(&user) {
            return Ok(rules);
        }
        let changes_before = *self.rules.changes();
        let stored = self.account_data(user, None, KIND).await?;
        let stored = stored.and_then(|json| serde_json::from_str::<Stored>(&json).ok());
        let rules = match stored {
            Some(Stored { mut global }) => {
                // Rules predefined since the user last changed something are added.
                global.update_with_server_default(self.predefined(user_id));
                global
            }
            None => self.predefined(user_id),
        };
        let rules = Arc::new(rules);
        self.rules.keep(user, &rules, changes_before);
        Ok(rules)
    }

    /// What holds until the user changes it.
    fn predefined(&self, user_id: &UserId) -> Ruleset {
        let mut rules = Ruleset::server_default(user_id);
        if self.house.options.for_suites.legacy_mentions {
            let rule = PatternedPushRuleInit {
                actions: vec![
                    Action::Notify,
                    Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)),
                ],
                default: true,
                enabled: true,
                rule_id: ".m.rule.contains_user_name".to_owned(),
                pattern: user_id.localpart().to_owned(),
            };
            rules.content.insert(rule.into());
        }
        rules
    }

    /// Whether the rules changed after `after`, up to `upto`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn push_rules_changed(
        &self,
        user: UserNid,
        after: Position,
        upto: Position,
    ) -> Result<bool, Error> {
        let key = (user, RoomNid::default(), KIND.to_owned());
        let row = self.house.ledger.get(&ACCOUNT_DATA, &key).await?;
        Ok(row.is_some_and(|row| row.position > after.0 && row.position <= upto.0))
    }

    /// The content of the account data event that clients see, also when nothing was ever set.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn push_rules_content(
        &self,
        user: UserNid,
        user_id: &UserId,
    ) -> Result<String, Error> {
        let rules = self.push_rules(user, user_id).await?;
        Ok(json!({ "global": &*rules }).to_string())
    }

    /// Adds or replaces a rule.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if the name or the place is not possible.
    pub async fn set_push_rule(
        &self,
        caller: &Caller,
        rule: NewPushRule,
        place: Place,
    ) -> Result<(), Error> {
        self.change_rules(caller, |rules| {
            rules
                .insert(rule, place.after.as_deref(), place.before.as_deref())
                .map_err(|error| Error::invalid_param(error.to_string()))
        })
        .await
    }

    /// Removes a rule of the user's own.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none,
    /// [`appliance_model::Kind::InvalidParam`] for predefined rules.
    pub async fn delete_push_rule(
        &self,
        caller: &Caller,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<(), Error> {
        self.change_rules(caller, |rules| {
            find(rules, &kind, rule_id)?;
            rules.remove(kind, rule_id).map_err(|error| Error::invalid_param(error.to_string()))
        })
        .await
    }

    /// Turns a rule on or off.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none.
    pub async fn enable_push_rule(
        &self,
        caller: &Caller,
        (kind, rule_id): (RuleKind, &str),
        enabled: bool,
    ) -> Result<(), Error> {
        self.change_rules(caller, |rules| {
            rules.set_enabled(kind, rule_id, enabled).map_err(|_| no_such_rule())
        })
        .await
    }

    /// Changes what a rule does.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none.
    pub async fn set_push_rule_actions(
        &self,
        caller: &Caller,
        (kind, rule_id): (RuleKind, &str),
        actions: Vec<Action>,
    ) -> Result<(), Error> {
        self.change_rules(caller, |rules| {
            rules.set_actions(kind, rule_id, actions).map_err(|_| no_such_rule())
        })
        .await
    }

    pub(super) async fn change_rules(
        &self,
        caller: &Caller,
        change: impl FnOnce(&mut Ruleset) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // A second change must see the first. Not the door of the user's account data, which the
        // change itself goes through.
        let _inside = self.doors.enter(u64::MAX - caller.user.0).await;
        let mut rules = Ruleset::clone(&*self.push_rules(caller.user, &caller.user_id).await?);
        change(&mut rules)?;
        let content = json!({ "global": rules }).to_string();
        let owner = (caller.user, caller.user_id.as_str());
        let set = self.set_account_data(owner, None, KIND, &content).await;
        self.rules.forget(caller.user);
        set
    }
}

/// A rule by kind and name.
///
/// # Errors
///
/// [`appliance_model::Kind::NotFound`] if there is none.
pub fn find<'a>(
    rules: &'a Ruleset,
    kind: &RuleKind,
    rule_id: &str,
) -> Result<AnyPushRuleRef<'a>, Error> {
    rules.get(kind.clone(), rule_id).ok_or_else(no_such_rule)
}

fn no_such_rule() -> Error {
    Error::not_found("There is no push rule of this kind and name.")
}
