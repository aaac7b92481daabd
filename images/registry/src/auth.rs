//! Credentials as CRI gives them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::net::bare_host;

/// Credentials for one registry. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// What is presented.
    pub secret: Secret,
    /// Which server it is for: a host, or a URL of which the host counts. `None`: the registry that the reference names,
    /// and no mirror of it.
    pub server_address: Option<String>,
}

/// The secret itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A user's name and password: HTTP Basic, also at the token service.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth refresh token, exchanged at the token service.
    IdentityToken(String),
    /// A bearer token, presented to the registry as it is.
    RegistryToken(String),
}

/// The fields of CRI's `AuthConfig`; an empty one is absent.
#[derive(Clone, Copy, Default)]
pub struct AuthFields<'a> {
    /// User name.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
    /// Base64 of `username:password`; used when `username` is empty.
    pub auth: &'a str,
    /// Which server they are for.
    pub server_address: &'a str,
    /// An OAuth refresh token.
    pub identity_token: &'a str,
    /// A bearer token.
    pub registry_token: &'a str,
}

impl fmt::Debug for AuthFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// CRI's fields don't make credentials. Names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthFieldsError {
    /// `auth` is no base64 text.
    #[error("the credentials' field auth isn't base64")]
    NotBase64,
    /// `auth` has no colon or no UTF-8.
    #[error("the credentials' field auth isn't base64 of username:password")]
    NotUserAndPassword,
    /// `server_address` has no host.
    #[error("the credentials' server_address {0:?} names no host")]
    NoHost(String),
}

impl Auth {
    /// Reads CRI's fields in containerd's order: user and password, identity token, `auth`, registry token. All empty
    /// means no credentials.
    pub fn from_fields(fields: AuthFields<'_>) -> Result<Option<Self>, AuthFieldsError> {
        let secret = if !fields.username.is_empty() {
            Secret::Password { username: fields.username.to_owned(), password: fields.password.to_owned() }
        } else if !fields.identity_token.is_empty() {
            Secret::IdentityToken(fields.identity_token.to_owned())
        } else if !fields.auth.is_empty() {
            let bytes = BASE64.decode(fields.auth.trim()).map_err(|_| AuthFieldsError::NotBase64)?;
            let text = String::from_utf8(bytes).map_err(|_| AuthFieldsError::NotUserAndPassword)?;
            let (username, password) = text.split_once(':').ok_or(AuthFieldsError::NotUserAndPassword)?;
            // Docker pads the decoded text with NULs on some platforms; containerd trims them as well.
            Secret::Password { username: username.to_owned(), password: password.trim_matches('\0').to_owned() }
        } else if !fields.registry_token.is_empty() {
            Secret::RegistryToken(fields.registry_token.to_owned())
        } else {
            return Ok(None);
        };
        let server_address = match fields.server_address {
            "" => None,
            address if bare_host(address).is_some() => Some(address.to_owned()),
            address => return Err(AuthFieldsError::NoHost(address.to_owned())),
        };
        Ok(Some(Self { secret, server_address }))
    }

    /// When the credentials ended, if they are a JSON web token that says so and it is over: the registry is the judge,
    /// this only explains its verdict.
    pub(crate) fn ended(&self) -> Option<Timestamp> {
        #[derive(Deserialize)]
        struct Claims {
            exp: i64,
        }
        let (Secret::Password { password: token, .. } | Secret::IdentityToken(token) | Secret::RegistryToken(token)) =
            &self.secret;
        let mut parts = token.split('.');
        let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        Timestamp::from_second(claims.exp).ok().filter(|end| *end <= Timestamp::now())
    }

    /// Tells two credentials apart in a cache without keeping them there.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        match &self.secret {
            Secret::Password { username, password } => {
                hash.update(b"password\0");
                hash.update(username.as_bytes());
                hash.update(b"\0");
                hash.update(password.as_bytes());
            }
            Secret::IdentityToken(token) => {
                hash.update(b"identity\0");
                hash.update(token.as_bytes());
            }
            Secret::RegistryToken(token) => {
                hash.update(b"registry\0");
                hash.update(token.as_bytes());
            }
        }
        hash.finalize().into()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("secret", &self.secret).field("server_address", &self.server_address).finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(redacted)",
            Self::IdentityToken(_) => "IdentityToken(redacted)",
            Self::RegistryToken(_) => "RegistryToken(redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_credentials_in_order() {
        let password = |username: &str, password: &str| {
            Some(Secret::Password { username: username.to_owned(), password: password.to_owned() })
        };
        for (fields, secret) in [
            (AuthFields::default(), None),
            (AuthFields { username: "u", password: "p", auth: "eDp5", ..Default::default() }, password("u", "p")),
            (AuthFields { auth: "eDp5", ..Default::default() }, password("x", "y")),
            (
                AuthFields { identity_token: "i", auth: "eDp5", ..Default::default() },
                Some(Secret::IdentityToken("i".into())),
            ),
            (AuthFields { registry_token: "r", ..Default::default() }, Some(Secret::RegistryToken("r".into()))),
        ] {
            assert_eq!(Auth::from_fields(fields).unwrap().map(|auth| auth.secret), secret);
        }
        for auth in ["!", "eA==", "/zo="] {
            assert!(Auth::from_fields(AuthFields { auth, ..Default::default() }).is_err(), "{auth}");
        }
        let nowhere = AuthFields { username: "u", server_address: "https://", ..Default::default() };
        assert!(Auth::from_fields(nowhere).is_err());
    }

    #[test]
    fn a_web_token_says_when_it_ended() {
        let token = |claims: &str| Auth {
            secret: Secret::RegistryToken(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))),
            server_address: None,
        };
        assert_eq!(token(r#"{"exp":1445412480}"#).ended().unwrap().to_string(), "2015-10-21T07:28:00Z");
        for claims in [r#"{"exp":4099766400}"#, r#"{"exp":"soon"}"#, "{}", "", r#"{"exp":9223372036854775807}"#] {
            assert_eq!(token(claims).ended(), None, "{claims}");
        }
        for secret in ["", ".", "..", "a.b.c", "opaque"] {
            let auth = Auth { secret: Secret::IdentityToken(secret.to_owned()), server_address: None };
            assert_eq!(auth.ended(), None, "{secret}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let fields = AuthFields { username: "me", password: "hunter2", ..Default::default() };
        let auth = Auth::from_fields(fields).unwrap();
        assert!(!format!("{auth:?} {fields:?}").contains("hunter2"));
    }
}
