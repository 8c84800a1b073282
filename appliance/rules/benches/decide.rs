//! What one decision about one file costs: `cargo bench -p appliance-rules`. The promise is two
//! microseconds at the median.

#![expect(clippy::print_stdout, reason = "the figure is what this program is for")]
#![expect(clippy::disallowed_methods, reason = "a yardstick for time must read the time")]

use std::hint::black_box;
use std::time::Instant;

use appliance_model::{Role, SessionClass};
use appliance_rules::policy::{
    Action, Content, HousePolicy, Object, Policy, RoomClass, Subject, decide, settings_scope,
};

const ROUNDS: usize = 200;
/// Decisions between two looks at the clock, which is slower than they are.
const BATCH: usize = 500;
const MEDIAN_NS_MAX: f64 = 2_000.0;

fn main() {
    let settings = settings_scope(7 * 86_400_000);
    let class = format!("{{\"class\":\"{}\"}}", RoomClass::ClinicalPhoto.as_str());
    let room = Policy::parse(&class).ok();
    let policy = HousePolicy::default().in_room(&settings, Some(Role::User), room.as_ref());
    let object = Object {
        uri: "mxc://hospital.example/abcdefghijklmnopqrstuvwx",
        content: Content::Picture,
        is_captured: false,
        may_tell_place: false,
        deadline_ms: Some(2_000_000),
        opens: 1,
        opens_of_user: 1,
        open_until_ms: 0,
    };
    let mut samples_ns = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for at in 0..BATCH {
            let class = SessionClass::ALL[at % SessionClass::ALL.len()];
            let user_id = "@nurse:hospital.example";
            let subject = Subject { user_id, device_id: "PHONE", class, is_uploader: false };
            let action = Action::ALL[at % Action::ALL.len()];
            drop(black_box(decide(black_box(&policy), &subject, action, &object, 1_000_000)));
        }
        samples_ns.push(start.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
    }
    samples_ns.sort_by(f64::total_cmp);
    let (median, slowest) = (samples_ns[ROUNDS / 2], samples_ns[ROUNDS * 99 / 100]);
    let verdict = if median <= MEDIAN_NS_MAX { "met" } else { "missed" };
    println!(
        "decide: {median:.0} ns p50, {slowest:.0} ns p99 (<= {MEDIAN_NS_MAX:.0} ns p50: {verdict})"
    );
}
