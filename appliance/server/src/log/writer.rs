//! The thread that writes, and the queue before it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::entry::Entry;
use super::sink::Sink;
use crate::lifecycle::start_thread;

/// Entries that may wait: a few seconds of a busy server, a few megabytes at worst.
const QUEUE_LENGTH: usize = 4_096;

/// Where entries are put.
#[derive(Clone)]
pub struct Queue {
    sender: SyncSender<Option<Entry>>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// A queue of `count` entries and its other end.
    #[cfg(test)]
    pub fn test(count: usize) -> (Self, Receiver<Option<Entry>>) {
        let (sender, receiver) = sync_channel(count);
        (Self { sender, dropped: Arc::default() }, receiver)
    }

    /// Queues an entry, or counts it as lost if the queue is full. Never waits.
    pub fn put(&self, entry: Entry) {
        if self.sender.try_send(Some(entry)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("wardstone_log_dropped_total").increment(1);
        }
    }
}

/// Writes until dropped.
pub struct Writer {
    queue: Queue,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The operating system gives no thread.
    pub fn start(sink: Sink) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue { sender, dropped: dropped.clone() };
        // A thread and not a task: writing to the journal blocks, and must go on when the runtime
        // does not.
        let thread = start_thread("journal", move || write(&sink, &receiver, &dropped))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// The queue before this writer.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Waits for room in the queue: the last lines of a process are the ones that matter.
        if self.queue.sender.send(None).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A writer that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

fn write(sink: &Sink, receiver: &Receiver<Option<Entry>>, dropped: &AtomicU64) {
    loop {
        match receiver.recv() {
            Ok(Some(entry)) => sink.write(&entry),
            Ok(None) | Err(_) => return,
        }
        // Entries are lost while the queue is full: those before them are still to come out of it.
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            sink.write(&Entry {
                time: String::new(),
                level: tracing::Level::WARN,
                target: "wardstone::log".into(),
                message: format!("{lost} journal entries were lost: the journal was too slow"),
                fields: vec![("kind".into(), "log.dropped".into())],
                place: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> Entry {
        Entry {
            time: String::new(),
            level: tracing::Level::INFO,
            target: "test".into(),
            message: message.into(),
            fields: vec![],
            place: None,
        }
    }

    #[test]
    fn a_full_queue_counts_and_never_waits() {
        let (queue, receiver) = Queue::test(2);
        for _ in 0..5 {
            queue.put(entry("one of five"));
        }
        queue.dropped.load(Ordering::Relaxed);
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(receiver.try_iter().count(), 2);
    }

    #[test]
    fn what_was_queued_is_written_before_the_end_and_losses_are_told() {
        let (sink, written) = Sink::test();
        let writer = Writer::start(sink).unwrap();
        writer.queue.dropped.fetch_add(7, Ordering::Relaxed);
        writer.queue().put(entry("the last words"));
        drop(writer);
        let written: Vec<String> = written.try_iter().collect();
        assert_eq!(written[0], "the last words");
        assert!(written[1].starts_with("7 journal entries were lost"));
    }
}
