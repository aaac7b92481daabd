//! Where credentials go, and where they don't.

use super::*;

fn password() -> Auth {
    Auth { secret: Secret::Password { username: "me".into(), password: "secret".into() }, server_address: None }
}

const BASIC: &str = "Basic bWU6c2VjcmV0";

/// A registry that wants a token from its own `/token`.
async fn guarded(image: Arc<Image>, realm: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Fake {
    Fake::start(move |seen, _| {
        if seen.path() == "/token" {
            let anonymous = seen.header("authorization").is_none() && seen.body.is_empty();
            let token = if anonymous { "anonymous" } else { "full" };
            return Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        match seen.header("authorization") {
            Some("Bearer full") => image.serve(seen),
            _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#).with(
                "www-authenticate",
                format!(r#"Bearer realm="{}",service="fake",scope="repository:team/app:pull""#, realm(seen)),
            ),
        }
    })
    .await
}

fn own_realm(seen: &Seen) -> String {
    format!("http://{}/token", seen.header("host").unwrap())
}

fn authorizations(fake: &Fake) -> Vec<String> {
    fake.seen().iter().filter_map(|seen| seen.header("authorization")).map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn the_password_goes_to_the_token_service_and_the_token_to_the_registry() {
    let fake = guarded(Image::new(10), own_realm).await;
    let registry = Registry::new(config());
    for _ in 0..2 {
        registry.resolve(&reference(&fake), Some(&password()), &amd64()).await.unwrap();
    }
    let tokens: Vec<Seen> = fake.seen().into_iter().filter(|seen| seen.path() == "/token").collect();
    assert_eq!(tokens.len(), 1, "the token is kept");
    assert_eq!(tokens[0].header("authorization"), Some(BASIC));
    assert_eq!(tokens[0].target, "/token?scope=repository%3Ateam%2Fapp%3Apull&service=fake");
    let others = fake.seen().into_iter().filter(|seen| seen.path() != "/token");
    assert!(
        others.filter_map(|seen| seen.header("authorization").map(ToOwned::to_owned)).all(|sent| sent == "Bearer full")
    );
    // Other credentials don't get at the kept token.
    let error = registry.resolve(&reference(&fake), None, &amd64()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let fake = guarded(Image::new(10), own_realm).await;
    let auth = Auth { secret: Secret::IdentityToken("re fresh".into()), server_address: None };
    resolve(&fake, Some(&auth)).await.unwrap();
    let posted = fake.seen().into_iter().find(|seen| seen.path() == "/token").unwrap();
    assert_eq!((posted.method.as_str(), posted.target.as_str()), ("POST", "/token"));
    assert!(posted.body.contains("refresh_token=re+fresh&") || posted.body.ends_with("refresh_token=re+fresh"));
    let auth = Auth { secret: Secret::RegistryToken("full".into()), server_address: None };
    let fake = guarded(Image::new(10), own_realm).await;
    resolve(&fake, Some(&auth)).await.unwrap();
    assert!(!fake.paths().contains(&"/token".to_owned()));
}

#[tokio::test]
async fn basic_is_sent_when_asked_for_and_a_wrong_one_ends() {
    let image = Image::new(10);
    let fake = Fake::start(move |seen, _| match seen.header("authorization") {
        Some(BASIC) => image.serve(seen),
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    resolve(&fake, Some(&password())).await.unwrap();
    assert_eq!(authorizations(&fake).len(), fake.seen().len() - 1, "asked for once, then known");
    let wrong = Auth { secret: Secret::Password { username: "me".into(), password: "x".into() }, server_address: None };
    let before = fake.seen().len();
    let error = resolve(&fake, Some(&wrong)).await.unwrap_err();
    assert_eq!(fake.seen().len() - before, 2);
    assert!(
        error.kind() == Kind::Unauthorized && error.to_string().contains("doesn't accept the credentials"),
        "{error}"
    );
    let error = resolve(&fake, None).await.unwrap_err();
    assert!(error.to_string().contains("none are given for it"), "{error}");
}

#[tokio::test]
async fn a_realm_on_another_host_gets_nothing() {
    let evil = Fake::on("127.0.0.2", |_, _| Reply::new(200, r#"{"token":"full"}"#)).await;
    let realm = format!("http://{}/token", evil.address);
    let fake = guarded(Image::new(10), move |_| realm.clone()).await;
    let error = resolve(&fake, Some(&password())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(error.to_string().contains("neither on its own host"), "{error}");
    assert!(evil.seen().is_empty() && authorizations(&fake).is_empty());
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_secret_along() {
    let image = Image::new(1000);
    for (host, challenge) in [("127.0.0.2", None), ("127.0.0.1", None), ("127.0.0.2", Some("Basic realm=\"x\""))] {
        let other = Fake::on(host, {
            let image = image.clone();
            move |seen, _| match challenge {
                None => image.serve(seen),
                Some(challenge) => Reply::new(401, "").with("www-authenticate", challenge),
            }
        })
        .await;
        let target = other.address;
        let home = Fake::start(move |seen, _| match seen.header("authorization") {
            Some(BASIC) => Reply::new(307, "").with("location", format!("http://{target}{}", seen.target)),
            _ => Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
        })
        .await;
        let reference: Reference = "registry.example/team/app:1".parse().unwrap();
        let text = format!("server = \"http://{0}\"\n[header]\nx-key = \"k\"\n", home.address);
        let (_directory, registry) = with_mirrors(&reference, &text);
        let result = registry.resolve(&reference, Some(&password()), &amd64()).await;
        assert_eq!(result.is_ok(), challenge.is_none(), "{:?}", result.err());
        assert!(!other.seen().is_empty() && authorizations(&other).is_empty(), "{host}");
        assert!(other.seen().iter().all(|seen| seen.header("x-key").is_none()));
        assert!(home.seen().iter().all(|seen| seen.header("x-key") == Some("k")));
    }
}

#[tokio::test]
async fn redirects_end() {
    let fake = Fake::start(|seen, _| Reply::new(302, "").with("location", seen.target.clone())).await;
    let error = resolve(&fake, None).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(fake.seen().len(), 6);
}

#[tokio::test]
async fn a_mirror_sees_credentials_only_if_they_name_it() {
    let image = Image::new(10);
    for named in [false, true] {
        let guard = |image: Arc<Image>| {
            move |seen: &Seen, _| match seen.header("authorization") {
                Some(BASIC) => image.serve(seen),
                _ => Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
            }
        };
        let (mirror, upstream) = (Fake::start(guard(image.clone())).await, Fake::start(guard(image.clone())).await);
        let reference: Reference = "registry.example/team/app:1".parse().unwrap();
        let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", upstream.address, mirror.address);
        let (_directory, registry) = with_mirrors(&reference, &text);
        let server_address = named.then(|| mirror.address.to_string());
        let auth = Auth { server_address, ..password() };
        registry.resolve(&reference, Some(&auth), &amd64()).await.unwrap();
        assert_eq!((authorizations(&mirror).is_empty(), authorizations(&upstream).is_empty()), (!named, named));
    }
}

#[tokio::test]
async fn errors_hold_no_secret() {
    let fake = Fake::start(|seen, _| match seen.path() {
        "/token" => Reply::new(403, r#"{"details":"incorrect username"}"#),
        _ => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{}\"", own_realm(seen))),
    })
    .await;
    let error = resolve(&fake, Some(&password())).await.unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(told.contains("gives no token (incorrect username)"), "{told}");
    assert!(!told.contains("secret") && !told.contains("bWU6"), "{told}");
}

#[tokio::test]
async fn missing_wrong_and_expired_credentials_are_told_apart() {
    // As Docker Hub has it: anybody gets a token, and it opens nothing that isn't public.
    let private = Fake::start(move |seen, _| match seen.path() {
        "/token" => match seen.header("authorization") {
            Some(BASIC) => {
                Reply::new(401, r#"{"error":"invalid_grant","error_description":"the password has expired"}"#)
            }
            Some(_) => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
            None => Reply::new(200, format!(r#"{{"token":"anonymous{}"}}"#, seen.target.len())),
        },
        _ => Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#).with(
            "www-authenticate",
            format!(r#"Bearer realm="{}",service="fake",error="insufficient_scope""#, own_realm(seen)),
        ),
    })
    .await;
    let with = |secret: Secret| Auth { secret, server_address: None };
    let user = |name: &str| Secret::Password { username: name.to_owned(), password: "secret".to_owned() };
    for (auth, says) in [
        (None, "it wants credentials, and none are given for it (UNAUTHORIZED: authentication required)"),
        (Some(with(user("you"))), "it doesn't accept the credentials: its token service gives no token (incorrect"),
        (Some(with(user("me"))), "the credentials have expired: its token service gives no token (the password has"),
        (Some(with(Secret::RegistryToken("x".into()))), "the credentials don't allow it (UNAUTHORIZED"),
        (Some(with(Secret::RegistryToken("e30.eyJleHAiOjF9.x".into()))), "the credentials have expired on 1970-01-01"),
    ] {
        let error = resolve(&private, auth.as_ref()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthorized);
        assert!(error.to_string().contains(says), "{error} doesn't say {says:?}");
    }
    let elsewhere = Auth { server_address: Some("quay.example".into()), ..with(user("me")) };
    let error = resolve(&private, Some(&elsewhere)).await.unwrap_err();
    assert!(error.to_string().contains("those given are for \"quay.example\" alone"), "{error}");
    // Amazon's registry says so with a 403.
    let amazon = Fake::start(|_, _| {
        Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}"#)
    })
    .await;
    let auth = with(Secret::RegistryToken("x".into()));
    let error = resolve(&amazon, Some(&auth)).await.unwrap_err();
    assert!(error.to_string().contains("the credentials have expired: answered 403 (DENIED: Your"), "{error}");
    let error = resolve(&amazon, None).await.unwrap_err();
    assert!(error.to_string().contains("none are given for it: answered 403"), "{error}");
}

#[tokio::test]
async fn requests_go_through_the_proxy_of_the_settings() {
    let image = Image::new(1000);
    let proxy = Fake::start({
        let image = image.clone();
        // A proxy gets whole addresses; this one is the registry, too.
        move |seen, _| match seen.header("proxy-authorization") {
            Some(BASIC) => {
                let mut direct = seen.clone();
                direct.target = format!("/v2/{}", seen.target.split("/v2/").nth(1).unwrap_or_default());
                image.serve(&direct)
            }
            _ => Reply::new(407, "").with("proxy-authenticate", "Basic realm=\"p\""),
        }
    })
    .await;
    let reference: Reference = "registry.example/team/app:1".parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(reference.registry());
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), "server = \"http://registry.example\"\n").unwrap();
    let through = |value: String| {
        let proxies = crate::Proxies::from_variables(|name| (name == "HTTP_PROXY").then(|| value.clone())).unwrap();
        Registry::new(RegistryConfig { hosts_dir: Some(directory.path().to_owned()), proxies, ..config() })
    };
    through(format!("me:secret@{}", proxy.address)).resolve(&reference, None, &amd64()).await.unwrap();
    assert!(proxy.seen().iter().all(|seen| seen.target.starts_with("http://registry.example/")), "{:?}", proxy.paths());
    let error = through(proxy.address.to_string()).resolve(&reference, None, &amd64()).await.unwrap_err().to_string();
    let says = format!("cannot connect through the proxy http://{}: it wants other credentials", proxy.address);
    assert!(error.contains(&says), "{error}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error =
        through(format!("me:secret@{nobody}")).resolve(&reference, None, &amd64()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot connect through the proxy http://{nobody}: ")), "{error}");
    assert!(!error.contains("secret"), "{error}");
}
