//! Support for the tests that need a kernel: frames, the oracle and its
//! generator, network namespaces, the lab, the benchmark.
//!
//! Not here: any code that the data path also runs. What judges it must not
//! share its mistakes.

pub mod agent;
pub mod bench;
pub mod capture;
pub mod client;
pub mod connection;
pub mod echo;
pub mod established;
pub mod fault;
pub mod foreign;
pub mod generate;
pub mod hops;
pub mod lab;
pub mod mortal;
pub mod netns;
pub mod on_host;
pub mod oracle;
pub mod packet;
pub mod programs;
pub mod random;
pub mod reload;
pub mod rounds;
pub mod sequel;
pub mod server;
pub mod table;
pub mod topology;
pub mod tun;
pub mod twin;
pub mod wire;
