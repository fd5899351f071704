//! Tokens that are made here, by keys that are made here.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";

struct Maker {
    key: EncodingKey,
    set: Value,
}

fn written(users: TokenUsers) -> TokenIssuer {
    TokenIssuer {
        issuer: ISSUER.to_owned(),
        audiences: vec![ISSUER.to_owned()],
        key_set: std::path::PathBuf::new(),
        users,
    }
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
        self.issuer_of(TokenUsers::ServiceAccounts)
    }

    fn issuer_of(&self, users: TokenUsers) -> Issuer {
        Issuer::new(&written(users), self.set.to_string().as_bytes()).unwrap()
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
        Issuer::new(&written(TokenUsers::ServiceAccounts), set.as_bytes()),
        Err(KeySetError::Empty)
    ));
    assert!(matches!(
        Issuer::new(&written(TokenUsers::ServiceAccounts), b"{}"),
        Err(KeySetError::Malformed)
    ));
}

/// What sort of key the API server signs with where nobody chose one: kubeadm and kind make RSA.
#[test]
fn rsa_signs_too_and_its_key_verifies_nothing_else() {
    use rsa::pkcs1::EncodeRsaPrivateKey as _;
    let pair = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let key = EncodingKey::from_rsa_der(pair.to_pkcs1_der().unwrap().as_bytes());
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
    jwk["kid"] = json!("a");
    let set = json!({ "keys": [jwk] }).to_string();
    let issuer = Issuer::new(&written(TokenUsers::ServiceAccounts), set.as_bytes()).unwrap();
    let token = |algorithm| {
        let mut header = Header::new(algorithm);
        header.kid = Some("a".to_owned());
        encode(&header, &claims(), &key).unwrap()
    };
    let (identity, _) = issuer.verify(&token(Algorithm::RS256)).unwrap();
    assert_eq!(&*identity.user, "system:serviceaccount:build:ci");
    // The set says of the key what it is for.
    assert_eq!(
        issuer.verify(&token(Algorithm::RS512)).unwrap_err(),
        TokenError::UnknownKey
    );
    // A token that is signed with the public key, as if that were a secret.
    let public = EncodingKey::from_secret(jwk["n"].as_str().unwrap().as_bytes());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("a".to_owned());
    let forged = encode(&header, &claims(), &public).unwrap();
    assert_eq!(issuer.verify(&forged).unwrap_err(), TokenError::UnknownKey);
    let good = token(Algorithm::RS256);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    assert_eq!(
        issuer.verify(&format!("{signed}.{turned}")).unwrap_err(),
        TokenError::Invalid
    );
}

#[test]
fn another_issuer_names_whom_its_claims_name() {
    let maker = Maker::new("a");
    let users = |username: &str, prefix: &str| TokenUsers::Claims {
        username: username.to_owned(),
        username_prefix: prefix.to_owned(),
        groups: Some("teams".to_owned()),
        groups_prefix: "oidc:".to_owned(),
    };
    let claims = json!({
        "iss": ISSUER, "aud": ISSUER, "sub": "4711", "exp": now() + 600, "email": "jane@example.com",
        "email_verified": true, "teams": ["dev", 7, "ops"],
        // Only the cluster's own issuer says such things.
        "kubernetes.io": { "namespace": "kube-system", "pod": { "name": "p", "uid": "u-1" } }
    });
    let said = |users: TokenUsers, claims: &Value| {
        let verified = maker.issuer_of(users).verify(&maker.token("a", claims));
        verified.map(|(identity, _)| Identity::clone(&identity))
    };
    let jane = said(users("sub", "https://sso#"), &claims).unwrap();
    assert_eq!(&*jane.user, "https://sso#4711");
    let groups: Vec<&str> = jane.groups.iter().map(|group| &**group).collect();
    assert_eq!(groups, ["oidc:dev", "oidc:ops", "system:authenticated"]);
    assert_eq!(jane.bound_to, None);
    assert_eq!(
        &*said(users("email", ""), &claims).unwrap().user,
        "jane@example.com"
    );
    let mut unverified = claims.clone();
    unverified["email_verified"] = json!(false);
    assert_eq!(
        said(users("email", ""), &unverified).unwrap_err(),
        TokenError::Invalid
    );
    assert_eq!(
        said(users("nobody", ""), &claims).unwrap_err(),
        TokenError::Invalid
    );
}

#[test]
fn of_several_issuers_the_one_that_made_it_counts() {
    let (cluster, sso, stranger) = (Maker::new("a"), Maker::new("a"), Maker::new("a"));
    let tokens = Tokens::new(vec![cluster.issuer(), sso.issuer()], false);
    for maker in [&cluster, &sso] {
        assert!(tokens.verify(&maker.token("a", &claims())).is_ok());
    }
    assert!(tokens.verify(&stranger.token("a", &claims())).is_err());
    assert!(Tokens::new(Vec::new(), false).verify("a").is_err());
}
