//! Authorization: challenges, tokens, and who may see which secret.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::auth::{Auth, Secret};
use crate::error::{Cause, words};
use crate::hosts::Endpoint;
use crate::net::{bare_host, is_loopback};
use crate::reference::Reference;

/// Longest token answer, in bytes. Tokens of cloud registries have some 4 kB.
pub(crate) const TOKEN_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest challenge that is read, in bytes.
const CHALLENGE_BYTES_MAX: usize = 8 * 1024;
/// Most grants kept: one per repository in use. When full, all are dropped; the next request is challenged again.
const GRANTS_MAX: usize = 1024;
/// How long a token is used when the answer doesn't say (the token specification's default).
const TOKEN_LIFE_DEFAULT: Duration = Duration::from_secs(60);
/// Longest use of any token: a service that says a year shall not make us keep its token for one.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(3600);
/// A token isn't used in its last seconds: it could end on the way.
const TOKEN_LIFE_MARGIN: Duration = Duration::from_secs(5);

/// What to present to one origin for one repository with one set of credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GrantKey {
    pub(crate) origin: String,
    pub(crate) repository: String,
    pub(crate) credentials: Option<[u8; 32]>,
}

/// The Authorization headers that were accepted, until they end.
#[derive(Default)]
pub(crate) struct Grants(Mutex<HashMap<GrantKey, (HeaderValue, Instant)>>);

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grants(redacted)")
    }
}

impl Grants {
    fn table(&self) -> MutexGuard<'_, HashMap<GrantKey, (HeaderValue, Instant)>> {
        // A panic in between leaves at worst one grant less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self, key: &GrantKey) -> Option<HeaderValue> {
        let table = self.table();
        table.get(key).filter(|(_, until)| Instant::now() < *until).map(|(header, _)| header.clone())
    }

    pub(crate) fn keep(&self, key: GrantKey, header: HeaderValue, life: Duration) {
        let mut table = self.table();
        if table.len() >= GRANTS_MAX {
            let now = Instant::now();
            table.retain(|_, (_, until)| now < *until);
        }
        if table.len() >= GRANTS_MAX {
            table.clear();
        }
        table.insert(key, (header, Instant::now() + life));
    }

    pub(crate) fn forget(&self, key: &GrantKey) {
        self.table().remove(key);
    }
}

/// The credentials that an endpoint may see, or why it may not.
#[derive(Clone, Copy)]
pub(crate) enum Presentable<'a> {
    /// These.
    Yes(&'a Auth),
    /// There are none.
    None,
    /// There are, for another server: this one.
    ForAnother(&'a str),
    /// There are, but the way isn't private.
    NotOverHttp,
}

/// Credentials without an address are for the registry that the reference names; with one, for that server alone, be it
/// a mirror. Over plain HTTP they go no further than this machine.
pub(crate) fn presentable<'a>(
    auth: Option<&'a Auth>,
    endpoint: &Endpoint,
    reference: &'a Reference,
) -> Presentable<'a> {
    let Some(auth) = auth else { return Presentable::None };
    let base = &endpoint.base;
    let meant = match auth.server_address.as_deref().and_then(bare_host) {
        None => auth.server_address.is_none() && endpoint.is_upstream,
        Some(address) => names(address, base) || endpoint.is_upstream && hub(address) == hub(reference.registry()),
    };
    match (meant, base.scheme() == "https" || is_loopback(base)) {
        (true, true) => Presentable::Yes(auth),
        (true, false) => Presentable::NotOverHttp,
        (false, _) => {
            let address = auth.server_address.as_deref().and_then(bare_host);
            Presentable::ForAnother(address.unwrap_or(reference.registry()))
        }
    }
}

/// Why an endpoint refused: without credentials, with wrong ones, with ones that are over, with ones that allow too
/// little. `challenges` and `words` are the registry's; `words` comes with a space before it.
pub(crate) fn refusal(offered: &Presentable<'_>, challenges: &[Challenge], words: &str) -> String {
    let said = |name: &str| challenges.iter().find_map(|challenge| challenge.parameter(name)).unwrap_or_default();
    let over = |text: &str| text.to_ascii_lowercase().contains("expired");
    let why = match offered {
        Presentable::Yes(auth) => match auth.ended() {
            Some(end) => format!("the credentials have expired on {end}"),
            None if over(words) || over(said("error_description")) => "the credentials have expired".to_owned(),
            None if said("error") == "insufficient_scope" => "the credentials don't allow it".to_owned(),
            None => "it doesn't accept the credentials".to_owned(),
        },
        Presentable::None => "it wants credentials, and none are given for it".to_owned(),
        Presentable::ForAnother(server) => {
            format!("it wants credentials, and those given are for {:?} alone", crate::error::words(server))
        }
        Presentable::NotOverHttp => {
            "it wants credentials, and they aren't sent over plain http to another machine".to_owned()
        }
    };
    format!("{why}{words}")
}

fn names(address: &str, base: &Url) -> bool {
    format!("{}://{address}/", base.scheme()).parse::<Url>().is_ok_and(|url| url.origin() == base.origin())
}

/// Docker Hub has three names.
fn hub(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// One scheme of a WWW-Authenticate header with its parameters, names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl<'a> Presentable<'a> {
    pub(crate) fn auth(self) -> Option<&'a Auth> {
        match self {
            Self::Yes(auth) => Some(auth),
            Self::None | Self::ForAnother(_) | Self::NotOverHttp => None,
        }
    }
}

impl Challenge {
    /// What a status of 403 says without words.
    pub(crate) fn insufficient_scope() -> Self {
        let parameters = vec![("error".to_owned(), "insufficient_scope".to_owned())];
        Self { scheme: "bearer".to_owned(), parameters }
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of an answer, Bearer before Basic: a token says less than a password.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        if let Ok(text) = value.to_str()
            && text.len() <= CHALLENGE_BYTES_MAX
        {
            parse_challenges(text, &mut found);
        }
    }
    found.sort_by_key(|challenge| challenge.scheme != "bearer");
    found
}

/// `Scheme name="value", name=value, Scheme …`: a word that isn't followed by `=` begins a challenge.
fn parse_challenges(text: &str, found: &mut Vec<Challenge>) {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if word_end == 0 {
            return;
        }
        let (word, after) = rest.split_at(word_end);
        let after_blank = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after_blank.strip_prefix('=') {
            let (value, after) = parse_value(value.trim_start_matches([' ', '\t']));
            if let Some(challenge) = found.last_mut() {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after_blank;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
}

/// A token or a quoted string; the value and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            plain => value.push(plain),
        }
    }
    (value, "")
}

/// A request to a token service.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    pub(crate) url: Url,
    /// Basic credentials, for a GET.
    pub(crate) authorization: Option<HeaderValue>,
    /// A form, for a POST: it holds the identity token.
    pub(crate) form: Option<String>,
}

/// The request that answers a Bearer challenge of `endpoint`.
///
/// The realm is the registry's choice, so it gets credentials only over TLS, or when it is on the host that would have
/// got them anyway. It may be elsewhere (Docker Hub's is): the challenge came from the registry itself, over a channel
/// that [`presentable`] accepted, not from a redirect's target.
pub(crate) fn token_request(
    challenge: &Challenge,
    endpoint: &Endpoint,
    repository: &str,
    auth: Option<&Auth>,
) -> Result<TokenRequest, Cause> {
    let refused = |why: String| Cause::Unauthorized(format!("its token service {why}"));
    let realm = challenge.parameter("realm").unwrap_or_default();
    let mut url: Url = realm.parse().map_err(|_| refused(format!("{:?} is no URL", words(realm))))?;
    let same_host = url.host_str() == endpoint.base.host_str();
    let shown = words(&format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()));
    if !(url.scheme() == "https" || url.scheme() == "http" && same_host) || url.host_str().is_none() {
        return Err(refused(format!("{shown} is neither on its own host nor reached over https")));
    }
    if is_loopback(&url) && !is_loopback(&endpoint.base) {
        return Err(refused(format!("{shown} is on this machine, the registry isn't")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(format!("{shown} has a user name in its URL")));
    }
    let scope = challenge.parameter("scope").map_or_else(|| format!("repository:{repository}:pull"), ToOwned::to_owned);
    let service = challenge.parameter("service").map(ToOwned::to_owned);
    let identity = match auth.map(|auth| &auth.secret) {
        Some(Secret::IdentityToken(token)) => Some(token),
        _ => None,
    };
    let mut query = vec![("scope", scope)];
    query.extend(service.map(|service| ("service", service)));
    let Some(identity) = identity else {
        let authorization = match auth.map(|auth| &auth.secret) {
            Some(Secret::Password { username, password }) => Some(basic(username, password)?),
            _ => None,
        };
        url.query_pairs_mut().extend_pairs(query);
        return Ok(TokenRequest { url, authorization, form: None });
    };
    query.extend([
        ("grant_type", "refresh_token".to_owned()),
        ("client_id", "podwright".to_owned()),
        ("refresh_token", identity.clone()),
    ]);
    // The form encoding is that of a query; a URL that goes nowhere does it.
    let mut encoder = url.clone();
    encoder.set_query(None);
    encoder.query_pairs_mut().extend_pairs(query);
    Ok(TokenRequest { form: encoder.query().map(ToOwned::to_owned), url, authorization: None })
}

/// `Basic …`.
pub(crate) fn basic(username: &str, password: &str) -> Result<HeaderValue, Cause> {
    header(format!("Basic {}", BASE64.encode(format!("{username}:{password}"))))
}

/// `Bearer …`.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Cause> {
    header(format!("Bearer {token}"))
}

fn header(text: String) -> Result<HeaderValue, Cause> {
    let value = HeaderValue::try_from(text);
    let mut value = value.map_err(|_| Cause::Unauthorized("a token that can't stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The header that a token service's answer makes, and how long it holds.
pub(crate) fn granted(answer: &[u8]) -> Result<(HeaderValue, Duration), Cause> {
    let answer: TokenAnswer = serde_json::from_slice(answer)
        .map_err(|_| Cause::Unauthorized("its token service's answer is no token".to_owned()))?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
    if token.is_empty() {
        return Err(Cause::Unauthorized("its token service's answer holds no token".to_owned()));
    }
    let life = answer.expires_in.filter(|life| *life > 0).map_or(TOKEN_LIFE_DEFAULT, Duration::from_secs);
    Ok((bearer(&token)?, life.min(TOKEN_LIFE_MAX).saturating_sub(TOKEN_LIFE_MARGIN)))
}

/// How long Basic is sent without being asked for again.
pub(crate) const BASIC_LIFE: Duration = TOKEN_LIFE_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::endpoints;

    fn parsed(text: &str) -> Vec<(String, Vec<(String, String)>)> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, text.parse().unwrap());
        challenges(&headers).into_iter().map(|challenge| (challenge.scheme, challenge.parameters)).collect()
    }

    #[test]
    fn challenges_in_all_their_forms() {
        let bearer = |parameters: &[(&str, &str)]| {
            let own = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            ("bearer".to_owned(), own)
        };
        let full = [("realm", "https://a/t"), ("service", "s"), ("scope", "repository:a/b:pull,push")];
        for text in [
            r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#,
            r#"bearer  Realm = "https://a/t" , service=s,  scope="repository:a/b:pull,push","#,
            r#"Bearer realm="https:\/\/a/t",service="s",scope="repository:a/b:pull,push"#,
        ] {
            assert_eq!(parsed(text), [bearer(&full)], "{text}");
        }
        let both = parsed(r#"Basic realm="x, Bearer", Bearer realm="y""#);
        assert_eq!(both[0], bearer(&[("realm", "y")]));
        assert_eq!(both[1].0, "basic");
        for text in ["", ",", "=", "= Bearer", "\"", "realm=\"x\"", &"Bearer ".repeat(3000)] {
            assert!(parsed(text).iter().all(|(_, parameters)| parameters.is_empty()), "{text:.40}");
        }
    }

    fn request(registry: &str, realm: &str) -> Result<TokenRequest, Cause> {
        let secret = Secret::Password { username: "u".into(), password: "p".into() };
        let auth = Auth { secret, server_address: None };
        let parameters = vec![("realm".to_owned(), realm.to_owned())];
        let challenge = Challenge { scheme: "bearer".into(), parameters };
        token_request(&challenge, &endpoints(None, registry).unwrap()[0], "a/b", Some(&auth))
    }

    #[test]
    fn a_realm_is_reached_over_tls_or_on_the_same_host() {
        for (registry, realm, allowed) in [
            ("docker.io", "https://auth.docker.io/token", true),
            ("127.0.0.1:5000", "http://127.0.0.1:5001/token", true),
            ("127.0.0.1:5000", "https://auth.example/token", true),
            ("127.0.0.1:5000", "http://evil.example/token", false),
            ("quay.io", "http://quay.io/token", true),
            ("quay.io", "http://evil.example/token", false),
            ("quay.io", "https://127.0.0.1/token", false),
            ("quay.io", "https://u:p@evil.example/token", false),
            ("quay.io", "file:///etc/shadow", false),
            ("quay.io", "", false),
        ] {
            let verdict = request(registry, realm);
            assert_eq!(verdict.is_ok(), allowed, "{registry} {realm}: {verdict:?}");
        }
        let made = request("docker.io", "https://auth.docker.io/token?x=1").unwrap();
        assert_eq!(made.url.query(), Some("x=1&scope=repository%3Aa%2Fb%3Apull"));
    }

    #[test]
    fn credentials_are_for_the_server_they_name() {
        let with = |server: Option<&str>| Auth {
            secret: Secret::RegistryToken("t".into()),
            server_address: server.map(ToOwned::to_owned),
        };
        let base = |registry: &str, url: &str, is_upstream: bool| {
            let own = endpoints(None, registry).unwrap().remove(0);
            (Endpoint { base: url.parse().unwrap(), is_upstream, ..own }, format!("{registry}/a/b").parse().unwrap())
        };
        for (registry, url, upstream, server, says) in [
            ("quay.io", "https://quay.io/v2", true, None, "yes"),
            ("quay.io", "https://mirror/v2", false, None, "none"),
            ("quay.io", "https://mirror/v2", false, Some("quay.io"), "none"),
            ("quay.io", "https://mirror/v2", false, Some("https://mirror/"), "yes"),
            ("quay.io", "https://mirror:8443/v2", false, Some("mirror"), "none"),
            ("quay.io", "https://quay.io/v2", true, Some("docker.io"), "none"),
            ("docker.io", "https://registry-1.docker.io/v2", true, Some("https://index.docker.io/v1/"), "yes"),
            ("quay.io", "http://quay.io/v2", true, None, "http"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2", true, None, "yes"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2", true, Some("127.0.0.1:5001"), "none"),
        ] {
            let (endpoint, reference) = base(registry, url, upstream);
            let auth = with(server);
            let found = match presentable(Some(&auth), &endpoint, &reference) {
                Presentable::Yes(_) => "yes",
                Presentable::None => unreachable!("there are some"),
                Presentable::ForAnother(_) => "none",
                Presentable::NotOverHttp => "http",
            };
            assert_eq!(found, says, "{registry} {url} {server:?}");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong_with_the_credentials() {
        let auth = Auth { secret: Secret::IdentityToken("i".into()), server_address: None };
        let over = format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":1}"#));
        let over = Auth { secret: Secret::RegistryToken(over), server_address: None };
        let challenge = |error: &str| {
            let parameters = vec![("error".to_owned(), error.to_owned())];
            vec![Challenge { scheme: "bearer".into(), parameters }]
        };
        let none = Vec::new();
        for (offered, challenges, words, says) in [
            (Presentable::Yes(&auth), &none, " (DENIED)", "it doesn't accept the credentials (DENIED)"),
            (Presentable::Yes(&auth), &none, " (Your token has Expired)", "the credentials have expired (Your"),
            (Presentable::Yes(&over), &none, "", "the credentials have expired on 1970-01-01T00:00:01Z"),
            (Presentable::Yes(&auth), &challenge("insufficient_scope"), "", "the credentials don't allow it"),
            (Presentable::None, &challenge("insufficient_scope"), "", "none are given for it"),
            (Presentable::ForAnother("quay.io"), &none, "", "those given are for \"quay.io\" alone"),
            (Presentable::NotOverHttp, &none, "", "aren't sent over plain http"),
        ] {
            let told = refusal(&offered, challenges, words);
            assert!(told.contains(says), "{told:?} doesn't say {says:?}");
        }
    }

    #[test]
    fn token_answers() {
        assert_eq!(granted(br#"{"token":"x","expires_in":300}"#).unwrap().1, Duration::from_secs(295));
        assert_eq!(granted(br#"{"access_token":"x"}"#).unwrap().1, Duration::from_secs(55));
        assert_eq!(
            granted(br#"{"token":"x","expires_in":18446744073709551615}"#).unwrap().1,
            Duration::from_secs(3595)
        );
        for answer in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":7}"#] {
            assert!(granted(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
