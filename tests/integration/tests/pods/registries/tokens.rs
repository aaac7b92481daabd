//! Certificates and a token service, made on the spot with openssl.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tests_integration::machine;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const KEY: [&str; 6] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days"];

/// An authority, a server and a client of it.
pub(super) struct Certificates(PathBuf);

impl Certificates {
    pub(super) fn make(folder: &Path) -> anyhow::Result<Certificates> {
        let made = Certificates(folder.to_owned());
        made.one("authority", "/CN=authority", &[])?;
        let by = [made.text("authority.pem"), made.text("authority.key")];
        let by = ["-CA", by[0].as_str(), "-CAkey", by[1].as_str(), "-addext", "basicConstraints=critical,CA:FALSE"];
        let names = "subjectAltName=IP:127.0.0.1,DNS:registry.example,DNS:direct.example";
        made.one("server", "/CN=server", &[&by[..], &["-addext", names]].concat())?;
        made.one("client", "/CN=client", &[&by[..], &["-addext", "extendedKeyUsage=clientAuth"]].concat())?;
        let both = [std::fs::read(made.path("client.pem"))?, std::fs::read(made.path("client.key"))?].concat();
        std::fs::write(made.path("both.pem"), both)?;
        Ok(made)
    }

    fn one(&self, name: &str, subject: &str, more: &[&str]) -> anyhow::Result<()> {
        let (key, certificate) = (self.text(&format!("{name}.key")), self.text(&format!("{name}.pem")));
        let places = ["2", "-subj", subject, "-keyout", &key, "-out", &certificate];
        machine::run("openssl", &[&["req", "-x509"][..], &KEY[..], &places[..], more].concat()).map(drop)
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }
}

/// Gives tokens to `me` with `secret`, and for the identity token `identity`.
pub(super) struct Service {
    folder: PathBuf,
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Service> {
        let (key, certificate) = (folder.join("sign.key"), folder.join("sign.pem"));
        let places =
            ["-keyout".to_owned(), key.display().to_string(), "-out".to_owned(), certificate.display().to_string()];
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let how = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=signer"];
        machine::run("openssl", &[&how[..], &places[..]].concat())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let asked = Arc::new(Mutex::default());
        let (noted, of) = (Arc::clone(&asked), folder.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever goes away early has seen enough.
                let _gone = answer(stream, &noted, &of).await;
            }
        });
        Ok(Service { folder: folder.to_owned(), address, asked, task })
    }

    /// The registry's settings.
    pub(super) fn auth(&self) -> String {
        let bundle = self.folder.join("sign.pem");
        let (address, bundle) = (&self.address, bundle.display());
        format!("{{token: {{realm: 'http://{address}/token', service: fake, issuer: us, rootcertbundle: {bundle}}}}}")
    }

    /// What it was asked, as it came.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A token to pull from `repository`, that ends in so many seconds.
    pub(super) fn token(&self, repository: &str, seconds: i64) -> anyhow::Result<String> {
        signed(&self.folder, repository, seconds)
    }
}

async fn answer(mut stream: TcpStream, noted: &Mutex<Vec<String>>, folder: &Path) -> anyhow::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    let mut length = 0;
    let text = loop {
        length += stream.read(&mut bytes[length..]).await?;
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let wanted =
            text.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= wanted.unwrap_or(0_usize)) {
            break text;
        }
    };
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
    let head = text.to_ascii_lowercase();
    let known = text.contains("Basic bWU6c2VjcmV0") || text.contains("refresh_token=identity");
    let (status, body) = if known {
        ("200 OK", json!({"token": signed(folder, "team/app", 300)?, "expires_in": 300}))
    } else if head.contains("authorization: ") {
        ("401 Unauthorized", json!({"details": "wrong name or password"}))
    } else {
        // Anybody gets one that opens nothing, as Docker Hub has it.
        ("200 OK", json!({"token": signed(folder, "public/none", 300)?, "expires_in": 300}))
    };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// A JSON web token in the form that docker-registry takes.
fn signed(folder: &Path, repository: &str, seconds: i64) -> anyhow::Result<String> {
    let pem = std::fs::read_to_string(folder.join("sign.pem"))?;
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(&der).context("openssl writes base64")?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let access = json!([{"type": "repository", "name": repository, "actions": ["pull"]}]);
    let claims = json!({
        "iss": "us", "sub": "me", "aud": "fake", "jti": "1", "access": access,
        "iat": now - 600, "nbf": now - 600, "exp": now + seconds,
    });
    let text = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let content = format!("{}.{}", text(&header), text(&claims));
    let scratch = tempfile::tempdir()?;
    let (input, output) = (scratch.path().join("content"), scratch.path().join("signature"));
    std::fs::write(&input, &content)?;
    let key = folder.join("sign.key").display().to_string();
    let (output_text, input_text) = (output.display().to_string(), input.display().to_string());
    machine::run("openssl", &["dgst", "-sha256", "-sign", &key, "-out", &output_text, &input_text])?;
    Ok(format!("{content}.{}", URL_SAFE_NO_PAD.encode(std::fs::read(output)?)))
}
