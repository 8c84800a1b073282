//! One writer at a time inside a room (or an account): a lock per number, made when needed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Above this many doors, those nobody holds are taken out of the list.
const DOORS_KEPT_MAX: usize = 4_096;

/// The doors of a house.
#[derive(Default)]
pub struct Doors(Mutex<HashMap<u64, Weak<AsyncMutex<()>>>>);

impl Doors {
    /// Waits until nobody else is inside, then enters. Leaving is dropping the guard.
    pub async fn enter(&self, number: u64) -> OwnedMutexGuard<()> {
        let door = {
            let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if doors.len() > DOORS_KEPT_MAX {
                doors.retain(|_, door| door.strong_count() > 0);
            }
            let known = doors.get(&number).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let door = Arc::new(AsyncMutex::new(()));
                doors.insert(number, Arc::downgrade(&door));
                door
            })
        };
        door.lock_owned().await
    }

    /// Enters several, in the order of their numbers: so no two who want the same ones wait for each other.
    pub async fn enter_all(
        &self,
        numbers: impl IntoIterator<Item = u64>,
    ) -> Vec<OwnedMutexGuard<()>> {
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        let mut inside = Vec::with_capacity(numbers.len());
        for number in numbers {
            inside.push(self.enter(number).await);
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_through_the_same_door() {
        let doors = Doors::default();
        let inside = doors.enter(1).await;
        let _other_room = doors.enter(2).await;
        let second = doors.enter(1);
        tokio::pin!(second);
        tokio::select! {
            biased;
            _ = &mut second => panic!("the door was open"),
            () = tokio::task::yield_now() => {}
        }
        drop(inside);
        second.await;
    }

    #[tokio::test]
    async fn two_who_want_the_same_doors_in_another_order_both_come_in() {
        let doors = Doors::default();
        let (five, six) = (doors.enter(5).await, doors.enter(6).await);
        let one = async { drop(doors.enter_all([3, 5, 1, 3]).await) };
        let other = async { drop(doors.enter_all([1, 6, 3]).await) };
        let opened = async {
            tokio::task::yield_now().await;
            drop((five, six));
        };
        let all = async { tokio::join!(one, other, opened) };
        tokio::time::timeout(std::time::Duration::from_secs(10), all).await.unwrap();
    }
}
