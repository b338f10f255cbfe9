//! A load of searches that watches swaps: clients that keep their connection, and clients that connect again and again.
//!
//! `cargo run -p verdigris --example cluster_load -- --server URL [--keep 4] [--reconnect 4] …` asks until its standard
//! input ends. It prints a line of JSON whenever a client is answered by another lineage than before, one for each line
//! that it reads (what was counted so far), and one at the end.
//! An answer is called mixed when it shows a row newer than its release, or a document otherwise than another answer of
//! the same generation did: equal generations have equal content, in both lineages and in all pods.
//! Deliberately absent: a judgement of the figures, which is its caller's.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

#[path = "cluster_load/client.rs"]
mod client;
#[path = "cluster_load/tally.rs"]
mod tally;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Kind};
use crate::tally::Tally;

/// Asks for products without a break.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address of the service, such as http://198.19.0.7:7700
    #[arg(long)]
    server: String,
    #[arg(long, default_value = "products")]
    collection: String,
    /// Clients that keep their connection
    #[arg(long, default_value_t = 4)]
    keep: usize,
    /// Clients that connect anew after some calls
    #[arg(long, default_value_t = 4)]
    reconnect: usize,
    /// After how many calls they do
    #[arg(long, default_value_t = 20)]
    calls_per_connection: u64,
    /// Pause of a client after each call, in milliseconds
    #[arg(long, default_value_t = 10)]
    pause_ms: u64,
    /// What is asked, in turn
    #[arg(long, default_values_t = ["drill".to_owned(), "battery 18 V".to_owned(), "gloves".to_owned()])]
    text: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..arguments.keep + arguments.reconnect {
        let kind = if number < arguments.keep {
            Kind::Keeps
        } else {
            Kind::Reconnects {
                after_calls: arguments.calls_per_connection,
            }
        };
        let client = Client {
            number,
            kind,
            server: arguments.server.clone(),
            collection: arguments.collection.clone(),
            texts: arguments.text.clone(),
            pause: Duration::from_millis(arguments.pause_ms),
        };
        clients.spawn(client.run(tally.clone(), stop.clone()));
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {
        println!("{}", tally::locked(&tally).counted("so_far"));
    }
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    println!("{}", tally::locked(&tally).counted("end"));
    Ok(())
}
