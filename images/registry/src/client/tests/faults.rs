//! Answers that are broken, slow, too long or false.

use super::*;

/// A registry whose replies for a path that contains `part` are changed by `change`, given the number of that request.
async fn spoiled(
    image: &Arc<Image>,
    part: &'static str,
    change: impl Fn(Reply, &Seen, usize) -> Reply + Send + Sync + 'static,
) -> Fake {
    let image = image.clone();
    let count = std::sync::atomic::AtomicUsize::new(0);
    Fake::start(move |seen, _| {
        let reply = image.serve(seen);
        if !seen.path().contains(part) {
            return reply;
        }
        change(reply, seen, count.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
    })
    .await
}

#[tokio::test]
async fn a_blob_goes_on_where_the_connection_broke() {
    let image = Image::new(400_000);
    let fake = spoiled(&image, "/blobs/", |reply, _, number| match number {
        0 => reply.fault(Fault::Cut(100_000)),
        1 => reply.fault(Fault::Cut(0)),
        2 => reply.fault(Fault::Cut(70_000)),
        3 => reply.fault(Fault::Cut(1)),
        4 => reply.fault(Fault::Cut(65_537)),
        _ => reply,
    })
    .await;
    assert_eq!(layer(&fake, &image, 0).await.unwrap(), image.layer);
    let ranges: Vec<usize> = fake.seen().iter().map(Seen::range).collect();
    assert_eq!(ranges, [0, 100_000, 100_000, 170_000, 170_001, 235_538]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_its_start() {
    let image = Image::new(200_000);
    let whole = image.layer.clone();
    let fake = spoiled(&image, "/blobs/", move |_, _, number| {
        let reply = Reply::new(200, whole.clone());
        if number == 0 { reply.fault(Fault::Cut(150_000)) } else { reply.fault(Fault::NoLength) }
    })
    .await;
    assert_eq!(layer(&fake, &image, 0).await.unwrap(), image.layer);
    assert_eq!(layer(&fake, &image, 199_999).await.unwrap(), image.layer[199_999..]);
}

#[tokio::test]
async fn a_blob_that_never_gets_on_is_given_up() {
    let image = Image::new(100_000);
    let fake = spoiled(&image, "/blobs/", |reply, _, _| reply.fault(Fault::Cut(10))).await;
    let error = layer(&fake, &image, 0).await.unwrap_err();
    assert_eq!((error.kind(), fake.seen().len()), (Kind::Unreachable, 3));
    assert_eq!(error.to_string().matches("the connection broke").count(), 3, "{error}");
}

#[tokio::test]
async fn silence_and_trickles_end() {
    let image = Image::new(100_000);
    for (fault, says) in [
        (Fault::Drip(Duration::from_millis(20)), "bytes came in"),
        (Fault::Drip(Duration::from_secs(3600)), "no data within"),
        (Fault::Silent, "no answer within"),
    ] {
        let fake = spoiled(&image, "/blobs/", move |reply, _, _| reply.fault(fault.clone())).await;
        let before = Instant::now();
        let error = layer(&fake, &image, 0).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    }
}

#[tokio::test]
async fn a_blob_is_as_long_as_promised() {
    let image = Image::new(1000);
    for (change, says) in [
        (Reply::new(200, vec![0; 1001]), "sends 1001 bytes where 1000"),
        (Reply::new(200, vec![0; 999]), "sends 999 bytes where 1000"),
        (Reply::new(200, vec![0; 5000]).fault(Fault::NoLength), "were promised"),
        (Reply::new(206, vec![0; 1000]), "answered 206"),
        (Reply::new(200, vec![0; 1000]).with("content-encoding", "gzip"), "Content-Encoding"),
    ] {
        let fake = spoiled(&image, "/blobs/", move |_, _, _| change.clone()).await;
        let error = layer(&fake, &image, 0).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    for range in ["bytes 0-999/1000", "bytes 500-998/1000", "bytes 500-999/2000", "", "x"] {
        let reply = Reply::new(206, vec![0; 500]).with("content-range", range);
        let fake = spoiled(&image, "/blobs/", move |_, _, _| reply.clone()).await;
        let error = layer(&fake, &image, 500).await.unwrap_err();
        assert!(error.to_string().contains("Content-Range"), "{error}");
    }
}

#[tokio::test]
async fn a_false_document_is_refused() {
    let image = Image::new(1000);
    let huge = usize::try_from(DOCUMENT_BYTES_MAX).unwrap() + 1;
    let index = image.index.clone();
    let typed = |bytes: Vec<u8>, media_type: &str| Reply::new(200, bytes).with("content-type", media_type);
    for (part, reply, says) in [
        ("/manifests/sha256:", typed(image.config.clone(), OCI_MANIFEST), "bytes where"),
        ("/manifests/sha256:", typed(vec![b' '; image.manifest.len()], OCI_MANIFEST), "was asked for"),
        ("/manifests/sha256:", typed(image.manifest.clone(), OCI_INDEX), "media type"),
        ("/manifests/1", typed(index.clone(), OCI_MANIFEST), "media type"),
        ("/manifests/1", typed(index.clone(), "text/html"), "media type"),
        (
            "/manifests/1",
            typed(index.clone(), OCI_INDEX).with("docker-content-digest", digest_of(b"x")),
            "was asked for",
        ),
        (
            "/manifests/1",
            typed(index.clone(), OCI_INDEX).with("docker-content-digest", "sha256:../.."),
            "Docker-Content",
        ),
        ("/manifests/1", typed(vec![b' '; huge], OCI_INDEX), "more than 4194304"),
        ("/manifests/1", typed(vec![b' '; huge], OCI_INDEX).fault(Fault::NoLength), "more than 4194304"),
        ("/manifests/1", typed(vec![], OCI_INDEX).fault(Fault::Length(1 << 40)), "more than 4194304"),
        ("/manifests/1", typed(b"{}".to_vec(), OCI_INDEX), "schemaVersion"),
    ] {
        let fake = spoiled(&image, part, move |_, _, _| reply.clone()).await;
        let error = resolve(&fake, None).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    // File servers that play registry know no media types.
    let fake = spoiled(&image, "/manifests/", move |mut reply, _, _| {
        reply.headers = vec![("content-type", "application/octet-stream".to_owned())];
        reply
    })
    .await;
    assert!(resolve(&fake, None).await.is_ok());
}

#[tokio::test]
async fn indexes_nest_three_deep_and_no_deeper() {
    let image = Image::new(10);
    let wrap = |inner: &[u8], media_type: &str| {
        let (digest, size) = (digest_of(inner), inner.len());
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        )
        .into_bytes()
    };
    let mut chain = vec![image.manifest.clone(), image.index.clone()];
    for _ in 0..3 {
        chain.push(wrap(chain.last().unwrap(), OCI_INDEX));
    }
    for (depth, fits) in [(1, true), (2, true), (3, true), (4, false)] {
        let documents = chain.clone();
        let fake = Fake::start(move |seen, _| {
            let last = seen.path().rsplit('/').next().unwrap();
            let found = documents.iter().find(|document| digest_of(document) == last).unwrap_or(&documents[depth]);
            Reply::new(200, found.clone())
        })
        .await;
        let result = resolve(&fake, None).await;
        assert_eq!(result.is_ok(), fits, "{depth}: {:?}", result.err());
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_and_an_unwilling_one_left() {
    let image = Image::new(10);
    let fake = spoiled(&image, "/manifests/1", |reply, _, number| match number {
        0 => Reply::new(429, "").with("retry-after", "1"),
        1 => Reply::new(503, ""),
        2 => reply.fault(Fault::Cut(5)),
        _ => reply,
    })
    .await;
    let before = Instant::now();
    resolve(&fake, None).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");

    let fake = spoiled(&image, "/manifests/1", |_, _, _| Reply::new(429, "").with("retry-after", "3600")).await;
    let before = Instant::now();
    let error = resolve(&fake, None).await.unwrap_err();
    assert_eq!((error.kind(), fake.seen().len()), (Kind::RateLimited, 1));
    assert!(error.to_string().contains("3600s") && before.elapsed() < Duration::from_secs(1), "{error}");

    let body = "\u{1b}[31m".repeat(1000);
    let fake = spoiled(&image, "/manifests/1", move |_, _, _| {
        Reply::new(500, format!(r#"{{"errors":[{{"message":{:?}}}]}}"#, body.replace('\u{1b}', "\\u001b")))
    })
    .await;
    let error = resolve(&fake, None).await.unwrap_err();
    assert_eq!((error.kind(), fake.seen().len()), (Kind::Unreachable, 5));
    assert!(!error.to_string().contains('\u{1b}') && error.to_string().len() < 600, "{error}");
}
