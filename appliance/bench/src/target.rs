//! What was promised. Each target is a limit on one figure, at the full sizes only: a small run
//! names its rows differently and is not judged.

use crate::measure::{Row, short};

/// What a limit is on.
enum On {
    /// The row's first figure: CPU seconds per 1,000, bytes or milliseconds.
    Figure,
    /// The median latency, in milliseconds.
    MedianMs,
    /// The first figure, as a multiple of another row's.
    TimesRow(&'static str),
    /// The first figure, as a part of Synapse's.
    PartOfSynapse,
}

struct Target {
    row: &'static str,
    on: On,
    at_most: f64,
}

/// One ordinary send, which a send into a big room is compared with.
const SMALL_SEND: &str = "send, 1 connection, 1 room";
const SMALL_JOIN: &str = "join a room of 10";

const TARGETS: &[Target] = &[
    Target { row: SMALL_SEND, on: On::Figure, at_most: 0.5 },
    Target { row: "send, 1 connection, 10 rooms", on: On::Figure, at_most: 0.5 },
    Target { row: "send, 16 connections, 1 room", on: On::Figure, at_most: 0.5 },
    Target { row: "send, 16 connections, 10 rooms", on: On::Figure, at_most: 0.5 },
    Target { row: "send, 1 connection, room of 1000", on: On::TimesRow(SMALL_SEND), at_most: 3.0 },
    // 0.15 ms of CPU for each delivery.
    Target { row: "delivery to 200 waiting clients", on: On::Figure, at_most: 0.15 },
    Target { row: "delivery to 200 waiting clients", on: On::MedianMs, at_most: 30.0 },
    // "Flat in room size": what remains is noise.
    Target { row: "join a room of 1000", on: On::TimesRow(SMALL_JOIN), at_most: 1.5 },
    Target { row: "initial sync, 122 rooms x 20 events", on: On::Figure, at_most: 15.0 },
    Target { row: "/members of 1000", on: On::Figure, at_most: 4.0 },
    // "Twenty times less CPU than Synapse", and nothing grows with the size of the server.
    Target { row: "delivery to 500 waiting clients", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "sliding sync, cold start of 500 rooms", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "sliding sync, events in 10 rooms", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "sliding sync with nothing new", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "incremental sync, 10 events in 10 rooms", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "/messages, 100 events a page", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "search, a rare word in 5000 events", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "search, a word in all of 5000 events", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "send, push rules of 5000 members", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "send, push rules of 5000 members", on: On::TimesRow(SMALL_SEND), at_most: 3.0 },
    Target { row: "sync with unread counts, room of 5000", on: On::PartOfSynapse, at_most: 0.05 },
    Target { row: "1000 idle clients, a minute", on: On::Figure, at_most: 0.1 },
    Target { row: "memory of an idle client", on: On::Figure, at_most: 40e3 },
    Target {
        row: "send, 1 connection, 1 room, full store",
        on: On::TimesRow(SMALL_SEND),
        at_most: 1.5,
    },
    // "Governed download throughput >= 90 % of ungoverned".
    Target {
        row: "download out of a clinical room",
        on: On::TimesRow("download out of a general room"),
        at_most: 1.0 / 0.9,
    },
    // "Join and catch-up at least ten times faster in CPU seconds", "p50 at most 25 ms" from the request to
    // send until the waiting client of the other server has it.
    Target { row: "delivery to another server, one at a time", on: On::MedianMs, at_most: 25.0 },
    Target {
        row: "join from afar, 1000 members, 20000 events, a member",
        on: On::PartOfSynapse,
        at_most: 0.1,
    },
    Target {
        row: "catch-up of 10000 events after an outage, an event",
        on: On::PartOfSynapse,
        at_most: 0.1,
    },
    Target { row: "disk per event, over 10000 events", on: On::Figure, at_most: 2000.0 },
    Target { row: "memory, idle after start", on: On::Figure, at_most: 40e6 },
    Target { row: "memory, after the load", on: On::Figure, at_most: 60e6 },
    Target { row: "first answer after start", on: On::Figure, at_most: 500.0 },
];

/// What the targets say of `row`, for the last column of the table.
pub(crate) fn verdict(row: &Row, all: &[Row], synapse: &[Row]) -> String {
    let found: Vec<String> = TARGETS
        .iter()
        .filter(|target| target.row == row.name)
        .filter_map(|target| target.judge(row, all, synapse))
        .collect();
    found.join("; ")
}

impl Target {
    fn judge(&self, row: &Row, all: &[Row], synapse: &[Row]) -> Option<String> {
        let limit = short(self.at_most);
        let (value, words) = match &self.on {
            On::Figure => {
                let words = match row.figure {
                    crate::measure::Figure::CpuPer1000(_) => format!("<= {limit}"),
                    crate::measure::Figure::Bytes(_) if self.at_most >= 1e6 => {
                        format!("<= {:.0} MB", self.at_most / 1e6)
                    }
                    crate::measure::Figure::Bytes(_) => format!("<= {:.0} B", self.at_most),
                    crate::measure::Figure::Ms(_) => format!("<= {limit} ms"),
                };
                (row.figure.value(), words)
            }
            On::MedianMs => (row.latency?.p50, format!("<= {limit} ms p50")),
            On::TimesRow(name) => {
                let other = all.iter().find(|other| other.name == *name)?;
                let times = row.figure.value() / other.figure.value();
                (times, format!("<= {limit} x \"{name}\", is {} x", short(times)))
            }
            On::PartOfSynapse => {
                let theirs = synapse.iter().find(|other| other.name == row.name)?;
                let times = row.figure.value() / theirs.figure.value();
                (times, format!("<= 1/{:.0} of Synapse's", 1.0 / self.at_most))
            }
        };
        let verdict = if value <= self.at_most { "met" } else { "**missed**" };
        Some(format!("{words}: {verdict}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figure;

    fn row(name: &str, figure: Figure) -> Row {
        Row::single("x", name, figure, String::new())
    }

    #[test]
    fn limits_are_judged_with_their_units() {
        let send = row(SMALL_SEND, Figure::CpuPer1000(0.4));
        assert_eq!(verdict(&send, &[], &[]), "<= 0.500: met");
        let idle = row("memory, idle after start", Figure::Bytes(41e6));
        assert_eq!(verdict(&idle, &[], &[]), "<= 40 MB: **missed**");
        let big = row("send, 1 connection, room of 1000", Figure::CpuPer1000(1.6));
        assert!(verdict(&big, &[send], &[]).ends_with("is 4.00 x: **missed**"));
        assert_eq!(verdict(&big, &[], &[]), "", "nothing to compare with");
        assert_eq!(verdict(&row("join a room of 60", Figure::CpuPer1000(1.0)), &[], &[]), "");
        let page = |s| row("/messages, 100 events a page", Figure::CpuPer1000(s));
        assert_eq!(verdict(&page(0.1), &[], &[page(2.1)]), "<= 1/20 of Synapse's: met");
        assert!(verdict(&page(0.2), &[], &[page(2.1)]).ends_with("**missed**"));
    }
}
