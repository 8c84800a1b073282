//! The yardstick (`make bench`): what one server costs, beside what Synapse costs for the same.
//!
//! It starts a server on loopback in a temporary folder, drives it as clients would over plain
//! HTTP/1.1, and reads from `/proc` what the server's processes used. The figure to compare is CPU
//! seconds per 1,000 operations: it hardly moves with what else the machine is doing, while
//! latencies do. Every number of requests and every wait is bounded, and only loopback is spoken to.
//!
//! * `server/`: start, stop and restart Wardstone and Synapse.
//! * `site.rs`, `http.rs`: users, rooms and requests, one TCP connection per virtual client.
//! * `pair.rs`: two servers that exchange rooms over TLS, and a line between them that can be cut.
//! * `scenario/`: one file per thing that is measured.
//! * `process.rs`, `measure.rs`: CPU, memory, disk, and the rows they become.
//! * `target.rs`, `report.rs`: what was promised, and the table.
//!
//! A response is checked, not only timed: a scenario fails when deliveries are missing, a history
//! has holes or a photo comes back different. Fast and wrong is not a result.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table goes to standard output, progress to standard error: that is the program"
)]

#[path = "../../acceptance/src/authority.rs"]
mod authority;
mod clock;
mod http;
mod machine;
mod measure;
mod pair;
mod process;
mod report;
mod saved;
mod scenario;
mod server;
mod site;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::measure::Row;
use crate::scenario::{NAMES, Sizes};
use crate::server::{Kind, Server};

/// Measures Wardstone, and Synapse beside it.
#[derive(Parser)]
struct Arguments {
    /// Small sizes: minutes become seconds, and the figures become rough.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_parser = NAMES.to_vec())]
    only: Vec<String>,
    /// Only these servers; both without it.
    #[arg(long, value_delimiter = ',')]
    server: Vec<Kind>,
    /// Measure Synapse again, although this machine's numbers for these sizes are saved.
    #[arg(long)]
    fresh: bool,
    /// The binary under test.
    #[arg(long, default_value = "target/release/wardstone")]
    wardstone: PathBuf,
    /// Where servers keep their files while they run, and where results are kept.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wardstone-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints and keeps the table. `false`: something could not be measured.
async fn run(arguments: &Arguments) -> Result<bool> {
    std::fs::create_dir_all(&arguments.folder).context("create the bench folder")?;
    let sizes = if arguments.quick { Sizes::quick() } else { Sizes::full() };
    let names: Vec<&str> = match arguments.only.as_slice() {
        [] => NAMES.to_vec(),
        only => NAMES.iter().copied().filter(|name| only.iter().any(|o| o == name)).collect(),
    };
    let facts = machine::facts(&arguments.folder, arguments.quick);
    let wants = |kind| arguments.server.is_empty() || arguments.server.contains(&kind);
    let mut is_complete = true;

    let mut synapse = Vec::new();
    if wants(Kind::Synapse) {
        match synapse_rows(arguments, &names, &sizes).await {
            Ok(rows) => synapse = rows,
            Err(error) => eprintln!("no figures for Synapse: {error:#}"),
        }
    }
    let mut wardstone = Vec::new();
    if wants(Kind::Wardstone) {
        let keep = |_: &[Row]| Ok(());
        wardstone = measure_server(Kind::Wardstone, arguments, &names, &sizes, keep).await?;
        is_complete = wardstone.iter().all(|row| row.failure.is_none());
    }

    let table = report::table(&facts, &wardstone, &synapse);
    println!("{table}");
    std::fs::write(arguments.folder.join("report.md"), &table).context("keep the report")?;
    Ok(is_complete)
}

/// Synapse's figures change only with the machine, its version and the sizes: measured once, kept.
async fn synapse_rows(arguments: &Arguments, names: &[&str], sizes: &Sizes) -> Result<Vec<Row>> {
    let saved = saved::Saved::open(&arguments.folder, arguments.quick);
    let mut rows = if arguments.fresh { Vec::new() } else { saved.rows(names) };
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !rows.iter().any(|row| row.scenario == *name))
        .collect();
    if !missing.is_empty() {
        let keep = |measured: &[Row]| saved.keep(measured);
        rows.extend(measure_server(Kind::Synapse, arguments, &missing, sizes, keep).await?);
    }
    Ok(rows)
}

/// One server, from the first start to the last stop. `keep` is given the rows of each scenario as
/// soon as they are there: a long run may be interrupted.
async fn measure_server(
    kind: Kind,
    arguments: &Arguments,
    names: &[&str],
    sizes: &Sizes,
    keep: impl Fn(&[Row]) -> Result<()>,
) -> Result<Vec<Row>> {
    let mut server = Server::prepare(kind, &arguments.wardstone, &arguments.folder)
        .with_context(|| format!("prepare {kind}"))?;
    server.start().await.with_context(|| format!("start {kind}"))?;
    let mut rows = Vec::new();
    for name in names {
        eprintln!("{kind}: {name}");
        match scenario::run(name, &mut server, sizes).await {
            Ok(measured) => {
                for row in &measured {
                    eprintln!("  {row}");
                }
                keep(&measured)?;
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!("  FAILED: {error:#}");
                rows.push(Row::failed(name, &error));
            }
        }
        if !server.is_running() {
            let log = server.log_tail();
            eprintln!("{kind} has ended by itself; its last lines:\n{log}");
            if let Err(error) = server.start().await {
                // What was measured before is still worth printing.
                rows.push(Row::failed("restart", &error));
                return Ok(rows);
            }
        }
    }
    server.stop().await?;
    Ok(rows)
}
