//! A rolling update under constant requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::alone;
use crate::Outcome;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::shell::{Shell, pause};
use crate::kubernetes::suite::Case;

pub(super) const CASES: &[Case] = &[alone("downtime::a_rolling_update_loses_no_request", no_request_is_lost)];

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of one client.
const BREATH: Duration = Duration::from_millis(3);
/// Clients at a time.
const CLIENTS: usize = 3;

fn no_request_is_lost(shell: &Shell, _: &Cluster) -> Outcome {
    shell.run("kubectl apply -f zero-downtime.yaml")?;
    let status = "kubectl rollout status deployment/nginx-deployment --timeout=80s";
    shell.run(status)?;
    let address = shell.run("kubectl get service nginx -o jsonpath='{.spec.clusterIP}'")?;
    let address: SocketAddr = format!("{}:80", address.trim()).parse()?;
    shell.comes_to_say(20, &format!("curl -sf --max-time 5 http://{address}/version"), "1.14.2")?;
    let over = AtomicBool::new(false);
    let (updated, answers) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask(address, &over))).collect();
        let updated = ["1.16.1", "latest", "1.14.2"].iter().try_for_each(|version| {
            shell.run(&format!("kubectl set image deployment/nginx-deployment nginx=nginx:{version}"))?;
            shell.run(status).map(drop)
        });
        // The last old pod still has its grace period.
        pause(Duration::from_secs(5));
        over.store(true, Ordering::Relaxed);
        let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap_or_default()).collect();
        (updated, answers)
    });
    updated?;
    let asked: usize = answers.iter().map(|(asked, _)| asked).sum();
    let lost: Vec<&String> = answers.iter().flat_map(|(_, lost)| lost).collect();
    eprintln!("downtime: {asked} requests, {} lost", lost.len());
    ensure!(asked > 1_000, "only {asked} requests were made");
    ensure!(lost.is_empty(), "{} of {asked} requests were lost, the first: {}", lost.len(), lost[0]);
    Ok(())
}

/// Asks, one new connection after the other, until it is over: how often, and what went wrong.
fn ask(address: SocketAddr, over: &AtomicBool) -> (usize, Vec<String>) {
    let (mut asked, mut lost) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        asked += 1;
        if let Err(error) = one(address) {
            lost.push(format!("{error:#}"));
        }
        pause(BREATH);
    }
    (asked, lost)
}

fn one(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: nginx\r\n\r\n").context("request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("answer")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "answered {answer:?}");
    Ok(())
}
