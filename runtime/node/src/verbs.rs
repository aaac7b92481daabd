//! One file per verb. A verb returns the program's exit code.

use std::future::Future;

use tokio::runtime::{Builder, Runtime};

use crate::address::Address;
use crate::cli::{Cli, DEFAULT_ADDRESS, Verb};
use crate::client::Client;
use crate::error::Error;

mod apply;
mod attach;
mod check;
mod cleanup;
mod completions;
mod delete;
mod exec;
mod export;
mod images;
mod import;
mod info;
mod kubelet;
mod logs;
mod manifests;
mod node;
mod port_forward;
mod prune;
mod ps;
mod pull;
mod rmi;
mod run;
mod session;
mod tag;
mod target;
mod version;

/// Heaps of a node: its threads rarely allocate at the same moment, and each heap keeps what it once needed.
const HEAPS_MAX: i32 = 2;

/// What a verb ends with.
pub(crate) type Answer = Result<u8, Error>;

/// Runs the verb, on no more threads than it needs: most ask the node one question.
pub(crate) fn dispatch(cli: Cli) -> Answer {
    let address = cli.address;
    match cli.verb {
        Verb::Run(arguments) => run::run(address, arguments),
        Verb::Node(arguments) => node::run(address, arguments),
        Verb::Cleanup(arguments) => cleanup::run(arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Completions(arguments) => completions::run(&arguments),
        Verb::Demo(arguments) => {
            let code = single()?.block_on(images_demo::run(arguments.command));
            Ok(exit_code(code))
        }
        Verb::Kubelet(arguments) => single()?.block_on(kubelet::run(address, arguments)),
        Verb::Apply(arguments) => ask(address, async |client| apply::run(client, &arguments).await),
        Verb::Ps(arguments) => ask(address, async |client| ps::run(client, &arguments).await),
        Verb::Logs(arguments) => ask(address, async |client| logs::run(client, arguments).await),
        Verb::Exec(arguments) => ask(address, async |client| exec::run(client, arguments).await),
        Verb::Attach(arguments) => ask(address, async |client| attach::run(client, arguments).await),
        Verb::PortForward(arguments) => ask(address, async |client| port_forward::run(client, arguments).await),
        Verb::Delete(arguments) => ask(address, async |client| delete::run(client, &arguments).await),
        Verb::Pull(arguments) => ask(address, async |client| pull::run(client, arguments).await),
        Verb::Images(arguments) => ask(address, async |client| images::run(client, &arguments).await),
        Verb::Import(arguments) => ask(address, async |client| import::run(client, arguments).await),
        Verb::Export(arguments) => ask(address, async |client| export::run(client, arguments).await),
        Verb::Rmi(arguments) => ask(address, async |client| rmi::run(client, &arguments).await),
        Verb::Tag(arguments) => ask(address, async |client| tag::run(client, arguments).await),
        Verb::Prune(_) => ask(address, prune::run),
        Verb::Info(arguments) => ask(address.clone(), async move |client| {
            info::run(client, address.unwrap_or_else(default), &arguments).await
        }),
        Verb::Version(_) => single()?.block_on(version::run(address.unwrap_or_else(default))),
    }
}

/// Connects and carries out a verb that needs nothing but a node.
fn ask<V, F>(address: Option<Address>, verb: V) -> Answer
where
    V: FnOnce(Client) -> F,
    F: Future<Output = Answer>,
{
    let address = address.unwrap_or_else(default);
    let runtime = single()?;
    let answer = runtime.block_on(async move { verb(Client::connect(&address).await?).await });
    // A read of standard input may be under way for ever, and nobody waits for it any more.
    runtime.shutdown_background();
    answer
}

fn default() -> Address {
    DEFAULT_ADDRESS.parse().expect("the default is an address")
}

/// A runtime on this thread.
fn single() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(|source| Error::Threads { source })
}

/// A runtime for a node. Its blocking threads only read and write files; the kernel's slow calls have threads of their own.
fn several(threads: usize) -> Result<Runtime, Error> {
    runtime_sys::memory::limit_arenas(HEAPS_MAX);
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("podwright")
        .enable_all()
        .build()
        .map_err(|source| Error::Threads { source })
}

/// The kernel passes on eight bits; a code beyond them must not become success.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(1)
}
