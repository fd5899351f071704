//! Tokens that are made here, by keys that are made here.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";

struct Maker {
    key: EncodingKey,
    set: Value,
}

impl Maker {
    fn new(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap();
        jwk["kid"] = json!(id);
        Self {
            key,
            set: json!({ "keys": [jwk] }),
        }
    }

    fn issuer(&self) -> Issuer {
        Issuer::new(ISSUER, &[ISSUER.to_owned()], self.set.to_string().as_bytes()).unwrap()
    }

    fn token(&self, id: &str, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(id.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:build:ci", "exp": now() + 600, "nbf": now() - 5,
        "kubernetes.io": {
            "namespace": "build", "serviceaccount": { "name": "ci", "uid": "sa" }, "pod": { "name": "ci-1", "uid": "u-1" }
        }
    })
}

#[test]
fn a_token_says_whom_it_names_and_for_which_pod_it_was_made() {
    let maker = Maker::new("a");
    let (identity, _) = maker.issuer().verify(&maker.token("a", &claims())).unwrap();
    assert_eq!(&*identity.user, "system:serviceaccount:build:ci");
    let groups: Vec<&str> = identity.groups.iter().map(|group| &**group).collect();
    assert_eq!(
        groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:build",
            "system:authenticated"
        ]
    );
    assert_eq!(held_by(&identity, Some(&PodUid::new("u-1"))), TokenState::Bound);
    assert_eq!(held_by(&identity, Some(&PodUid::new("u-2"))), TokenState::Stolen);
    assert_eq!(held_by(&identity, None), TokenState::Stolen);
}

#[test]
fn one_without_a_pod_is_unbound() {
    let maker = Maker::new("a");
    let mut claims = claims();
    claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let (identity, _) = maker.issuer().verify(&maker.token("a", &claims)).unwrap();
    assert_eq!(held_by(&identity, Some(&PodUid::new("u-1"))), TokenState::Unbound);
}

#[test]
fn what_isnt_right_names_nobody() {
    let (maker, other) = (Maker::new("a"), Maker::new("a"));
    let issuer = maker.issuer();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        maker.token("a", &claims)
    };
    assert_eq!(
        issuer.verify(&with("exp", json!(now() - 60))).unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        issuer.verify(&with("nbf", json!(now() + 60))).unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        issuer
            .verify(&with("iss", json!("https://elsewhere")))
            .unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        issuer.verify(&with("aud", json!(["vault"]))).unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        issuer.verify(&other.token("a", &claims())).unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        issuer.verify(&maker.token("b", &claims())).unwrap_err(),
        TokenError::UnknownKey
    );
    for text in ["", "a.b.c", "no token", &"x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(
            issuer.verify(text).unwrap_err(),
            TokenError::Malformed,
            "{text:.20}"
        );
    }
    let good = maker.token("a", &claims());
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert!(issuer.verify(&format!("{signed}.")).is_err());
}

#[test]
fn a_token_made_with_the_public_key_as_a_secret_is_refused() {
    let maker = Maker::new("a");
    let secret = maker.set["keys"][0]["x"].as_str().unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("a".to_owned());
    let forged = encode(&header, &claims(), &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    assert_eq!(
        maker.issuer().verify(&forged).unwrap_err(),
        TokenError::UnknownKey
    );
}

#[test]
fn a_verified_token_isnt_good_for_longer_than_it_says() {
    let maker = Maker::new("a");
    let issuer = maker.issuer();
    let token = maker.token("a", &claims());
    issuer.verify(&token).unwrap();
    // As if its time had come while it was kept.
    for (ends, _) in issuer.verified.lock().unwrap().values_mut() {
        *ends = now() - 60;
    }
    // It is verified anew, and by its own words it is still good.
    assert!(issuer.verify(&token).is_ok());
    assert_eq!(issuer.verified.lock().unwrap().len(), 1);
}

#[test]
fn sets_of_keys_that_verify_nothing_are_refused() {
    let set = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "a" }] }).to_string();
    assert!(matches!(
        Issuer::new(ISSUER, &[], set.as_bytes()),
        Err(KeySetError::Empty)
    ));
    assert!(matches!(
        Issuer::new(ISSUER, &[], b"{}"),
        Err(KeySetError::Malformed)
    ));
}
