//! `podwright exec`, `attach` and `port-forward` on pods of CRI and of the keeper, with pipes and on terminals.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tests_integration::client::container;
use tests_integration::{Outcome, machine};

use crate::{BUSYBOX, World};

/// How long anything may take.
const SOON: Duration = Duration::from_secs(30);

/// A program that doesn't outlive its test, and what it has said.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    fn start(command: &mut Command) -> anyhow::Result<Running> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let mut streams: Vec<Box<dyn std::io::Read + Send>> = Vec::new();
        streams.extend(child.stdout.take().map(|stream| Box::new(stream) as _));
        streams.extend(child.stderr.take().map(|stream| Box::new(stream) as _));
        for mut stream in streams {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut piece) {
                    said.lock().expect("no holder panics").extend_from_slice(&piece[..read]);
                }
            });
        }
        Ok(Running { stdin: child.stdin.take(), child, said })
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("no holder panics")).into_owned()
    }

    fn write(&mut self, text: &str) -> Outcome {
        Ok(self.stdin.as_mut().context("it is open")?.write_all(text.as_bytes())?)
    }

    async fn until(&self, words: &str) -> Outcome {
        until(|| self.said().contains(words)).await.with_context(|| format!("no {words:?} in {:?}", self.said()))
    }

    /// Its exit code.
    async fn code(&mut self) -> anyhow::Result<Option<i32>> {
        let child = &mut self.child;
        until(|| !matches!(child.try_wait(), Ok(None))).await.with_context(|| self.said())?;
        Ok(self.child.wait()?.code())
    }

    /// Sends it a signal, as `kill` calls it.
    fn kill(&self, signal: &str) -> Outcome {
        machine::run("kill", &[signal, &self.child.id().to_string()]).map(|_| ())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(mut good: impl FnMut() -> bool) -> Outcome {
    let began = Instant::now();
    while !good() {
        ensure!(began.elapsed() < SOON, "not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The command line against the shared node.
fn podwright(world: &World, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(machine::built("podwright")?);
    command.args(arguments).env("PODWRIGHT_ADDRESS", world.node.endpoint());
    Ok(command)
}

/// What it says in the end, given `input` and then its end.
async fn given(world: &World, arguments: &[&str], input: &[u8]) -> anyhow::Result<Output> {
    let mut command = podwright(world, arguments)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (mut stdin, input) = (child.stdin.take().context("a pipe")?, input.to_vec());
    // It may end before it has read all.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output =
        tokio::time::timeout(SOON, waiting).await.with_context(|| format!("{arguments:?} does not end"))???;
    let _ = feeding.join();
    Ok(output)
}

fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// One sentence on standard error with these words, code 1 and nothing else.
async fn refused(world: &World, arguments: &[&str], words: &[&str]) -> Outcome {
    let (out, err, code) = told(&given(world, arguments, b"").await?);
    let good = code == Some(1) && out.is_empty() && err.lines().count() == 1 && err.starts_with("podwright: ");
    ensure!(good && words.iter().all(|word| err.contains(word)), "{arguments:?}: {code:?} {out:?} {err:?}");
    Ok(())
}

/// Waits until no process of a container has this name.
async fn gone(world: &World, id: &str, name: &str) -> Outcome {
    let began = Instant::now();
    while world.client.exec(id, &["pidof", name]).await?.0 == 0 {
        if began.elapsed() > SOON {
            bail!("{name} still runs:\n{}", world.client.shell(id, "ps -o pid,ppid,stat,args").await?);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub(crate) async fn exec_passes_streams_and_code_on(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("verb-exec").await?;
    let id = world.client.launch(&sandbox, "main", BUSYBOX, &["sleep", "1000"]).await?;
    let side = world.client.launch(&sandbox, "side", BUSYBOX, &["sleep", "1001"]).await?;
    let script = "echo out; echo err >&2; exit 3";
    for pod in ["verb-exec", "default/verb-exec", &sandbox.id[..13], &id[..13]] {
        let output = given(&world, &["exec", pod, "--", "/bin/sh", "-c", script], b"").await?;
        ensure!(told(&output) == ("out\n".to_owned(), "err\n".to_owned(), Some(3)), "{pod}: {output:?}");
    }
    for (pod, more, expected) in [("verb-exec", &["-c", "side"][..], "1001"), (&side[..13], &[], "1001")] {
        let words = [&["exec", pod], more, &["--", "cat", "/proc/1/cmdline"]].concat();
        let (out, ..) = told(&given(&world, &words, b"").await?);
        ensure!(out.contains(expected), "{words:?}: {out:?}");
    }
    // What it reads arrives, its end too, and what is not passed on is not read.
    let input: Vec<u8> = (0..5_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let output = given(&world, &["exec", "-i", "verb-exec", "--", "cat"], &input).await?;
    ensure!(output.stdout == input && output.status.success(), "{} bytes came back", output.stdout.len());
    let (out, ..) = told(&given(&world, &["exec", "verb-exec", "--", "wc", "-c"], b"not read").await?);
    ensure!(out.trim() == "0", "{out:?}");
    // Its output comes while it runs, and what it reads may come later.
    let mut talk = Running::start(&mut podwright(&world, &["exec", "-i", "verb-exec", "--", "cat"])?)?;
    for word in ["one", "two"] {
        talk.write(&format!("{word}\n"))?;
        talk.until(word).await?;
    }
    drop(talk.stdin.take());
    ensure!(talk.code().await? == Some(0), "{}", talk.said());
    // A reader that has enough, and a command that takes no more.
    let program = machine::built("podwright")?.display().to_string();
    let line = format!("{program} --address {} exec verb-exec -- yes | head -n 1", world.node.endpoint());
    ensure!(machine::run("sh", &["-c", &line])? == "y\n", "head of yes");
    gone(&world, &id, "yes").await?;
    let output = given(&world, &["exec", "-i", "verb-exec", "--", "true"], &input).await?;
    ensure!(output.status.success(), "{output:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn exec_ends_with_its_time_and_its_signal_and_errors_are_a_sentence(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("verb-errors").await?;
    let id = world.client.launch(&sandbox, "main", BUSYBOX, &["tail", "-f", "/dev/null"]).await?;
    let late = ["exec", "verb-errors", "--timeout", "500ms", "--", "sleep", "777"];
    refused(&world, &late, &["exec in verb-errors", "did not end within 500ms"]).await?;
    gone(&world, &id, "sleep").await?;
    let interrupted = Running::start(&mut podwright(&world, &["exec", "verb-errors", "--", "sleep", "778"])?)?;
    let began = Instant::now();
    while world.client.exec(&id, &["pidof", "sleep"]).await?.0 != 0 {
        ensure!(began.elapsed() < SOON, "the command does not begin: {}", interrupted.said());
    }
    // Not SIGINT: a shell that starts the tests in the background has them ignore it, and so what they start.
    interrupted.kill("-TERM")?;
    gone(&world, &id, "sleep").await?;
    drop(interrupted);
    let missing = ["exec", "verb-errors", "--", "/no/such/program"];
    refused(&world, &missing, &["exec in verb-errors", "/no/such/program"]).await?;
    for (arguments, words) in [
        (&["exec", "verb-nobody", "--", "true"][..], &["no pod verb-nobody", "podwright ps"][..]),
        (&["exec", "0123456789abcdef", "--", "true"], &["no pod 0123456789abcdef"]),
        (&["exec", "verb-errors", "-c", "other", "--", "true"], &["no container other", "it has main"]),
        (&["attach", "verb-nobody"], &["no pod verb-nobody"]),
        (&["attach", "-i", "verb-errors"], &["attach to verb-errors", "standard input"]),
        (&["port-forward", "verb-nobody", "80"], &["no pod verb-nobody"]),
    ] {
        refused(&world, arguments, words).await?;
    }
    world.client.stop(&id, 0).await?;
    refused(&world, &["exec", "verb-errors", "--", "true"], &["container main of pod verb-errors is not running"])
        .await?;
    let out = given(&world, &["exec", "verb-errors", "true"], b"").await?;
    ensure!(out.status.code() == Some(2), "a command without -- : {out:?}");
    world.client.end(&sandbox).await
}

/// A shell line on a terminal of its own, made by `script`.
fn on_terminal(world: &World, line: &str) -> anyhow::Result<Running> {
    let mut command = Command::new("script");
    command.args(["-qefc", line, "/dev/null"]).env("PODWRIGHT_ADDRESS", world.node.endpoint()).env("SHELL", "/bin/sh");
    Running::start(&mut command)
}

/// The `podwright` below a process, once there is one, and the terminal that it reads from.
async fn podwright_below(pid: u32) -> anyhow::Result<(u32, String)> {
    let mut found = None;
    until(|| {
        found = descendants(pid).into_iter().find_map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            let terminal = std::fs::read_link(format!("/proc/{pid}/fd/0")).ok()?.display().to_string();
            (name == "podwright\n").then_some((pid, terminal))
        });
        found.is_some()
    })
    .await?;
    found.context("just seen")
}

fn descendants(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    children.iter().flat_map(|child| std::iter::once(*child).chain(descendants(*child))).collect()
}

fn modes(terminal: &str) -> String {
    machine::run("stty", &["-a", "-F", terminal]).unwrap_or_default()
}

pub(crate) async fn exec_on_a_terminal_is_raw_resized_and_restored(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("verb-terminal").await?;
    world.client.launch(&sandbox, "main", BUSYBOX, &["sleep", "1000"]).await?;
    let program = machine::built("podwright")?.display().to_string();
    let inside = "trap \"echo interrupted\" INT; echo begun; until [ \"$(stty size)\" = \"43 132\" ]; do sleep 0.05; done; \
                  echo sized; read line; echo got $line; sleep 1000 & wait; exit 5";
    for (signal, code) in [(None, 5), (Some("-TERM"), 143), (Some("-HUP"), 129), (Some("-QUIT"), 131)] {
        // Afterwards the terminal is as it was.
        let line =
            format!("{program} exec -it verb-terminal -- /bin/sh -c '{inside}'; echo code=$?; stty -a; echo over");
        let mut terminal = on_terminal(&world, &line)?;
        terminal.until("begun\r\n").await?;
        let (pid, device) = podwright_below(terminal.child.id()).await?;
        let raw = modes(&device);
        ensure!(raw.contains("-icanon") && raw.contains("-echo ") && raw.contains("-isig"), "it is not raw: {raw}");
        machine::run("stty", &["-F", &device, "rows", "43", "cols", "132"])?;
        terminal.until("sized\r\n").await?;
        terminal.write("typed\r")?;
        terminal.until("got typed\r\n").await?;
        match signal {
            // Ctrl-C goes to the command, which goes on to its end.
            None => terminal.write("\u{3}")?,
            Some(signal) => machine::run("kill", &[signal, &pid.to_string()]).map(|_| ())?,
        }
        terminal.until("over\r\n").await?;
        let said = terminal.said();
        let after = said.split_once(&format!("code={code}")).with_context(|| format!("{signal:?}: {said:?}"))?.1;
        ensure!(after.contains(" icanon") && after.contains(" echo ") && after.contains("isig"), "{signal:?}: {after}");
        ensure!(said.contains("interrupted\r\n") == signal.is_none(), "{signal:?}: {said:?}");
    }
    // Without a terminal on this side there is none on the other.
    let output = given(&world, &["exec", "-it", "verb-terminal", "--", "tty"], b"").await?;
    let (out, err, code) = told(&output);
    ensure!(out == "not a tty\n" && err.contains("is not a terminal") && code == Some(1), "{output:?}");
    // Without -i there is one, to which nothing is typed.
    let (out, _, code) = told(&given(&world, &["exec", "-t", "verb-terminal", "--", "tty"], b"").await?);
    ensure!(out.starts_with("/dev/pts/") && code == Some(0), "{out:?}");
    world.client.end(&sandbox).await
}

pub(crate) async fn attach_joins_pipes_and_terminals(world: Arc<World>) -> Outcome {
    let sandbox = world.sandbox("verb-attach").await?;
    let mut config =
        container("echo", BUSYBOX, &["/bin/sh", "-c", "while read line; do echo got $line; done; echo end"]);
    (config.stdin, config.stdin_once) = (true, true);
    let echo = world.client.create(&sandbox, config).await?;
    world.client.start(&echo).await?;
    // -t is the container's, which has none.
    let arguments = ["attach", "-it", "verb-attach", "-c", "echo"];
    let (out, err, code) = told(&given(&world, &arguments, b"one\ntwo\n").await?);
    ensure!(out == "got one\ngot two\nend\n" && code == Some(0), "{out:?} {err:?} {code:?}");
    ensure!(err.contains("has no terminal"), "{err:?}");

    let mut config = container("shell", BUSYBOX, &["/bin/sh", "-i"]);
    (config.stdin, config.tty) = (true, true);
    let shell = world.client.create(&sandbox, config).await?;
    world.client.start(&shell).await?;
    let program = machine::built("podwright")?.display().to_string();
    // -t is left out, and the container has a terminal: so it is raw all the same.
    let line = format!("{program} attach -i verb-attach -c shell; echo code=$?; stty -a; echo over");
    let mut terminal = on_terminal(&world, &line)?;
    terminal.until("attached; press Enter").await?;
    let (_, device) = podwright_below(terminal.child.id()).await?;
    until(|| modes(&device).contains("-icanon")).await.with_context(|| terminal.said())?;
    terminal.write("echo $((6*7))-$?\r")?;
    terminal.until("42-0\r\n").await?;
    // A second client sees the same, and leaves alone; its input isn't a terminal.
    let mut second = Running::start(&mut podwright(&world, &["attach", "-i", "verb-attach", "-c", "shell"])?)?;
    second.write("echo $((6*8))\n")?;
    second.until("48\r\n").await?;
    terminal.until("48\r\n").await?;
    drop(second);
    terminal.write("exit 3\r")?;
    terminal.until("over\r\n").await?;
    let said = terminal.said();
    let after = said.split_once("code=0").with_context(|| format!("an attach that ended well: {said:?}"))?.1;
    ensure!(after.contains(" icanon") && after.contains(" echo "), "{after}");
    ensure!(world.client.wait(&shell, SOON).await?.exit_code == 3, "the container's code is its own");
    world.client.end(&sandbox).await
}

/// What the pod's web server answers through a local address.
fn get(address: SocketAddr) -> anyhow::Result<String> {
    let mut tcp = TcpStream::connect_timeout(&address, SOON)?;
    tcp.set_read_timeout(Some(SOON))?;
    tcp.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    // Nothing comes after the half-close, and the answer comes all the same.
    tcp.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `podwright port-forward`, and the local addresses that it tells, of which there are `count`.
async fn forwarding(
    world: &World,
    arguments: &[&str],
    count: usize,
) -> anyhow::Result<(Running, HashMap<u16, Vec<SocketAddr>>)> {
    let running = Running::start(&mut podwright(world, &[&["port-forward"], arguments].concat())?)?;
    let lines = || running.said().lines().filter(|line| line.starts_with("Forwarding from ")).count();
    until(|| lines() >= count && running.said().ends_with('\n')).await.with_context(|| running.said())?;
    let mut all: HashMap<u16, Vec<SocketAddr>> = HashMap::new();
    for line in BufReader::new(running.said().as_bytes()).lines() {
        let line = line?;
        let (from, to) =
            line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> ")).context("a line")?;
        all.entry(to.parse()?).or_default().push(from.parse()?);
    }
    Ok((running, all))
}

pub(crate) async fn port_forward_carries_and_follows_the_pod(world: Arc<World>) -> Outcome {
    let served = async |text: &str| -> anyhow::Result<_> {
        let sandbox = world.sandbox("verb-forward").await?;
        let script = format!("mkdir /tmp/www; echo {text} > /tmp/www/page; httpd -f -p 127.0.0.1:8080 -h /tmp/www");
        let id = world.client.launch(&sandbox, "main", BUSYBOX, &["/bin/sh", "-c", &script]).await?;
        world.client.shell(&id, "until wget -q -O /dev/null http://127.0.0.1:8080/page; do sleep 0.1; done").await?;
        Ok(sandbox)
    };
    let first = served("first").await?;
    let (running, all) = forwarding(&world, &["verb-forward", ":8080", ":8081"], 4).await?;
    let (open, closed) = (&all[&8080], &all[&8081]);
    ensure!(open.iter().any(SocketAddr::is_ipv4) && open.iter().any(SocketAddr::is_ipv6), "both families: {open:?}");
    ensure!(open[0].port() == open[1].port() && open.iter().all(|one| one.ip().is_loopback()), "{open:?}");
    for round in 0..3 {
        let getting: Vec<_> = (0..20)
            .map(|n| open[n % open.len()])
            .map(|address| tokio::task::spawn_blocking(move || get(address)))
            .collect();
        for answer in getting {
            let answer = answer.await??;
            ensure!(answer.ends_with("\r\n\r\nfirst\n"), "round {round}: {answer:?}");
        }
    }
    // Nobody listens there: that connection ends, and the others go on.
    let _ = get(closed[0]);
    running.until("port 8081 of verb-forward: error forwarding port 8081").await?;
    ensure!(running.said().contains("refused"), "{}", running.said());
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let (pair, address) = (format!("{port}:8080"), format!("127.0.0.1:{port}"));
    refused(&world, &["port-forward", "verb-forward", &pair], &["cannot listen on", &address, "in use"]).await?;
    // The pod is made anew under its name, and found.
    world.client.end(&first).await?;
    let second = served("second").await?;
    ensure!(get(open[0])?.ends_with("second\n"), "the pod that was made anew is not found: {}", running.said());
    interrupted(running).await?;
    let (mut running, all) = forwarding(&world, &["verb-forward", ":8080", "--bind", "127.0.0.1"], 1).await?;
    world.client.end(&second).await?;
    let _ = get(all[&8080][0]);
    ensure!(running.code().await? == Some(1), "{}", running.said());
    running.until("podwright: there is no pod verb-forward").await
}

/// Ctrl-C is its usual end.
async fn interrupted(mut running: Running) -> Outcome {
    running.kill("-INT")?;
    ensure!(running.code().await? == Some(0), "{}", running.said());
    Ok(())
}

pub(crate) async fn pods_of_the_keeper_are_found(world: Arc<World>) -> Outcome {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: verb-kept, namespace: away}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         initContainers:\n  - {{name: before, image: {BUSYBOX}, command: [\"true\"]}}\n  containers:\n  - {{name: web, image: \
         {BUSYBOX}, command: [/bin/sh, -c, \"echo kept > page; httpd -f -p 127.0.0.1:8080\"]}}\n  - {{name: shell, image: \
         {BUSYBOX}, stdin: true, tty: true, command: [/bin/sh, -i]}}\n"
    );
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(file.path(), manifest)?;
    let applied = world.node.podwright(&["apply", &file.path().display().to_string()])?;
    ensure!(applied.status.success(), "{applied:?}");
    let checked = kept(&world).await;
    let deleted = world.node.podwright(&["delete", "away/verb-kept"])?;
    checked?;
    ensure!(deleted.status.success(), "{deleted:?}");
    Ok(())
}

async fn kept(world: &World) -> Outcome {
    let began = Instant::now();
    loop {
        let script = "wget -q -O - http://127.0.0.1:8080/page";
        let output = given(world, &["exec", "away/verb-kept", "--", "/bin/sh", "-c", script], b"").await?;
        if output.stdout == b"kept\n" {
            break;
        }
        // Until it runs, the sentence says what it is doing.
        let (_, err, _) = told(&output);
        ensure!(!err.contains("no pod"), "{err}");
        if began.elapsed() > SOON {
            bail!("the pod does not come up: {err}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !given(world, &["exec", "away/verb-kept", "-c", "shell", "--", "true"], b"").await?.status.success() {
        ensure!(began.elapsed() < SOON, "the second container does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let program = machine::built("podwright")?.display().to_string();
    let mut terminal = on_terminal(world, &format!("{program} attach -it away/verb-kept -c shell"))?;
    terminal.until("attached; press Enter").await?;
    terminal.write("echo $((6*7))\r")?;
    terminal.until("42\r\n").await?;
    drop(terminal);
    let (running, all) = forwarding(world, &["away/verb-kept", ":8080", "--bind", "127.0.0.1"], 1).await?;
    let address = all[&8080][0];
    ensure!(get(address)?.ends_with("kept\n"), "{}", running.said());
    interrupted(running).await
}
