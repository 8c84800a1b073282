//! `GET` and `POST /publicRooms` ([spec]): the rooms that were published.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#published-room-directory

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::PUBLISHED;
use appliance_model::{Error, RoomNid};

use super::{Face, Rooms};

/// Published rooms that are looked at.
pub const ROOMS_MAX: usize = 5_000;
/// Rooms on a page, and how many without being asked for a number.
const LIMIT_MAX: usize = 500;
const LIMIT_DEFAULT: usize = 100;

/// Which rooms.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// What name, topic or alias must hold.
    pub search: Option<String>,
    /// Of which types; `None` among them is a room without one.
    pub room_types: Option<Vec<Option<String>>>,
    /// How many.
    pub limit: Option<usize>,
    /// How many rooms earlier pages had.
    pub skip: usize,
    /// The rooms of another network, in place of those that people here have published.
    pub of_network: Option<Vec<RoomNid>>,
}

/// A page of the directory, the fullest rooms first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryPage {
    /// The rooms.
    pub rooms: Vec<Face>,
    /// Where the next page begins.
    pub next: Option<usize>,
    /// Where the page before begins.
    pub before: Option<usize>,
    /// How many rooms there are, on all pages.
    pub total: usize,
}

impl Rooms {
    /// A page of the published rooms.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn directory(&self, query: &DirectoryQuery) -> Result<DirectoryPage, Error> {
        let view = self.house.ledger.newest();
        let rooms = match &query.of_network {
            Some(rooms) => rooms.clone(),
            None => {
                let (rows, _) = view.scan(&PUBLISHED, &(), Direction::Forward, ROOMS_MAX).await?;
                rows.into_iter().map(|(room, _)| room).collect()
            }
        };
        let search = query.search.as_deref().map(str::to_lowercase).filter(|text| !text.is_empty());
        let mut found = Vec::new();
        for room in rooms {
            let Some(face) = self.face(room).await? else { continue };
            // Nobody could let anyone in.
            let wanted = face.num_joined_members > 0
                && query.room_types.as_ref().is_none_or(|types| types.contains(&face.room_type))
                && search.as_deref().is_none_or(|text| says(&face, text));
            if wanted {
                found.push(face);
            }
        }
        found.sort_by(|one, other| {
            let (one, other) = (
                (one.num_joined_members, &one.room_id),
                (other.num_joined_members, &other.room_id),
            );
            other.cmp(&one)
        });
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        let total = found.len();
        let end = query.skip.saturating_add(limit);
        Ok(DirectoryPage {
            rooms: found.into_iter().skip(query.skip).take(limit).collect(),
            next: (end < total && limit > 0).then_some(end),
            before: (query.skip > 0).then(|| query.skip.saturating_sub(limit)),
            total,
        })
    }
}

/// "generic_search_term: An optional string to search for in the room metadata, e.g. name, topic,
/// canonical alias, etc."
fn says(face: &Face, text: &str) -> bool {
    [&face.name, &face.topic, &face.canonical_alias]
        .into_iter()
        .flatten()
        .any(|field| field.to_lowercase().contains(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn published_rooms_are_found_by_word_and_type_in_pages() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let public = |name: &str, kind: Option<&str>| {
            json!({
                "name": name, "visibility": "public",
                "creation_content": kind.map_or(json!({}), |kind| json!({ "type": kind })),
            })
        };
        ward.room_as(&nurse, public("Lobby", None)).await;
        ward.room_as(&nurse, public("Wards", Some("m.space"))).await;
        let full = ward.room_as(&nurse, public("Canteen of the ward", None)).await;
        ward.services.rooms.join(&doctor, &full, None).await.unwrap();
        ward.room_as(&nurse, json!({ "name": "Hidden ward" })).await;
        let left = ward.room_as(&nurse, public("Empty ward", None)).await;
        ward.services.rooms.leave(&nurse, &left, None).await.unwrap();

        let names = async |query: DirectoryQuery| {
            let page = ward.services.rooms.directory(&query).await.unwrap();
            let names: Vec<_> = page.rooms.iter().map(|face| face.name.clone().unwrap()).collect();
            (names, page.next, page.before, page.total)
        };
        let (all, ..) = names(DirectoryQuery::default()).await;
        assert_eq!((all.len(), all[0].as_str()), (3, "Canteen of the ward"), "the fullest first");
        let word = DirectoryQuery { search: Some("WARD".to_owned()), ..Default::default() };
        assert_eq!(names(word).await.0, ["Canteen of the ward", "Wards"]);
        let space = Some(vec![Some("m.space".to_owned())]);
        let spaces = DirectoryQuery { room_types: space, ..Default::default() };
        assert_eq!(names(spaces).await.0, ["Wards"]);
        let plain = DirectoryQuery { room_types: Some(vec![None]), ..Default::default() };
        assert_eq!(names(plain).await.0.len(), 2);

        let (mut paged, mut skip) = (Vec::new(), Some(0));
        while let Some(at) = skip {
            let query = DirectoryQuery { limit: Some(1), skip: at, ..Default::default() };
            let (page, next, before, total) = names(query).await;
            assert_eq!((before, total), (at.checked_sub(1), 3));
            paged.extend(page);
            skip = next;
        }
        assert_eq!(paged, all);
    }
}
