//! A ledger over many nodes: where they are, how many rows each has over time, and the node that is added on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Error, NoTls};
use uuid::Uuid;

use crate::progress::{Counters, Event};
use crate::purchaser::listen;

/// Time between two counts of rows.
const COUNT: Duration = Duration::from_millis(200);

/// Time between two looks at how far the writers are.
const POLL: Duration = Duration::from_millis(20);

/// Number of the node that is added: those of the others are small.
const NEW_NUMBER: i32 = 1000;

/// Buckets of a ledger, and the bits of their numbers.
const BUCKETS: usize = 1 << BITS;
const BITS: u32 = 10;

/// Buckets that are moved even if the writers have finished.
const FEWEST_MOVES: usize = 4;

/// Name of the node that is added.
const NEW_NODE: &str = "new_node";

/// A server that has accounts, as the router knows it.
pub struct Node {
    pub name: String,
    host: String,
    port: i32,
    dbname: String,
}

impl Node {
    /// The nodes of a router.
    pub fn all(router: &mut Client) -> Result<Vec<Self>, Error> {
        let rows = router.query("SELECT node, host, port, dbname FROM credits.nodes ORDER BY node", &[])?;
        let node = |row: &postgres::Row| Self {
            name: row.get(0),
            host: row.get(1),
            port: row.get(2),
            dbname: row.get(3),
        };
        Ok(rows.iter().map(node).collect())
    }

    /// A session on it.
    pub fn connect(&self) -> Result<Client, Error> {
        let connection =
            format!("host='{}' port={} dbname='{}' user=postgres", self.host, self.port, self.dbname);
        Client::connect(&connection, NoTls)
    }
}

/// How many rows each node had at a moment, in seconds from the beginning.
pub struct Sample {
    pub seconds: f64,
    /// In the order in which the nodes came; one that came later is missing.
    pub rows: Vec<u64>,
}

/// What was counted, and of whom, in the order in which the nodes came.
pub struct Counted {
    pub names: Vec<String>,
    pub nodes: Vec<Client>,
    pub samples: Vec<Sample>,
}

/// Counts the rows of all nodes.
pub struct Census {
    began: Instant,
    new_nodes: Receiver<Node>,
    nodes: Vec<(String, Client)>,
    samples: Vec<Sample>,
}

impl Census {
    /// The nodes are those that have been sent, and those that will be.
    pub fn new(began: Instant, new_nodes: Receiver<Node>) -> Self {
        Self { began, new_nodes, nodes: Vec::new(), samples: Vec::new() }
    }

    /// Counts until the writers have finished.
    pub fn run(mut self, writers_finished: &AtomicBool) -> Result<Self, Error> {
        while !writers_finished.load(Ordering::Acquire) {
            self.count()?;
            thread::sleep(COUNT);
        }
        Ok(self)
    }

    /// Counts once. A node counts the accounts that are its own.
    fn count(&mut self) -> Result<(), Error> {
        for node in self.new_nodes.try_iter() {
            self.nodes.push((node.name.clone(), node.connect()?));
        }
        let mut rows = Vec::with_capacity(self.nodes.len());
        for (_, node) in &mut self.nodes {
            let count: i64 = node.query_one("SELECT credits.count_all_transactions()", &[])?.get(0);
            rows.push(u64::try_from(count).unwrap_or(0));
        }
        self.samples.push(Sample { seconds: self.began.elapsed().as_secs_f64(), rows });
        Ok(())
    }

    /// Counts for the last time.
    pub fn finish(mut self) -> Result<Counted, Error> {
        self.count()?;
        let (names, nodes) = self.nodes.into_iter().unzip();
        Ok(Counted { names, nodes, samples: self.samples })
    }
}

/// Adds a node and moves accounts to it while the writers write.
pub struct Expansion<'a> {
    pub router: Client,
    /// Host and database of the new node.
    pub new_node: &'a (String, String),
    /// Its bucket is moved first.
    pub busiest: Uuid,
    pub listeners: Sender<Client>,
    pub counted: Sender<Node>,
    pub counters: &'a Counters,
    pub requests: u64,
    pub events: Sender<Event>,
}

impl Expansion<'_> {
    /// Waits until a fourth of the requests is done, adds the node, and moves buckets to it, one after the other, until the writers have
    /// finished or it has its share.
    pub fn run(mut self, writers_finished: &AtomicBool) -> Result<(), Error> {
        while 4 * self.counters.handled() < self.requests && !writers_finished.load(Ordering::Acquire) {
            thread::sleep(POLL);
        }
        let share = self.add()?;
        let busiest: i32 = self.router.query_one("SELECT credits.bucket_of($1)", &[&self.busiest])?.get(0);
        for (number, bucket) in buckets_from(busiest).take(share).enumerate() {
            if number >= FEWEST_MOVES && writers_finished.load(Ordering::Acquire) {
                break;
            }
            self.move_bucket(bucket)?;
        }
        Ok(())
    }

    /// Adds the node, and answers how many buckets are its share.
    fn add(&mut self) -> Result<usize, Error> {
        let (host, dbname) = self.new_node;
        self.router.execute(
            "INSERT INTO credits.nodes (node, host, dbname, node_number) VALUES ($1, $2, $3, $4)",
            &[&NEW_NODE, host, dbname, &NEW_NUMBER],
        )?;
        let nodes = Node::all(&mut self.router)?;
        let share = BUCKETS / nodes.len();
        let node = nodes.into_iter().find(|node| node.name == NEW_NODE).expect("it was added");
        // Nothing is announced there before it has an account. Who is gone needs to hear of no node.
        let _ = self.listeners.send(listen(node.connect()?)?);
        let _ = self.counted.send(node);
        let _ = self.events.send(Event::Added { node: NEW_NODE });
        Ok(share)
    }

    fn move_bucket(&mut self, bucket: i32) -> Result<(), Error> {
        let began = Instant::now();
        // A move that gave way to the accounts' own transactions goes on when it is called again.
        while let Err(error) =
            self.router.batch_execute(&format!("CALL credits.move_bucket({bucket}, '{NEW_NODE}')"))
        {
            if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                return Err(error);
            }
            thread::sleep(POLL);
        }
        self.counters.moved.add(1);
        let _ = self.events.send(Event::Moved { bucket, node: NEW_NODE, took: began.elapsed() });
        Ok(())
    }
}

/// All buckets, this one first, in an order in which those before any place make few residue classes: the next one differs in the highest
/// bit, the two after that in the bit below, and so on.
fn buckets_from(first: i32) -> impl Iterator<Item = i32> {
    let reversed =
        |number: i32| (0..BITS).fold(0, |sum, bit| sum | ((number >> bit) & 1) << (BITS - 1 - bit));
    (0..1 << BITS).map(move |place| first ^ reversed(place))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn buckets_go_by_in_residue_classes() {
        let order: Vec<i32> = buckets_from(5).collect();
        assert_eq!(order[..4], [5, 517, 261, 773]);
        assert!(order[..64].iter().all(|bucket| bucket % 16 == 5));
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), BUCKETS);
    }
}
