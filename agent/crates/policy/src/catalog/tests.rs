use std::sync::Arc;

use super::*;

fn relation(oid: u32, schema: &str, name: &str) -> Relation {
    Relation {
        row_type: Some(Oid(oid + 1_000_000)),
        ..Relation::new(Oid(oid), schema, name, RelationKind::Table)
    }
}

fn column(number: i16, name: &str) -> Column {
    Column {
        name: name.into(),
        number,
        type_oid: Oid(25),
        generated: None,
        expression: None,
    }
}

fn function(
    oid: u32,
    schema: &str,
    name: &str,
    arguments: usize,
    defaults: usize,
    variadic: bool,
) -> Function {
    Function {
        oid: Oid(oid),
        schema: schema.into(),
        name: name.into(),
        kind: FunctionKind::Function,
        arguments: vec![Oid(25); arguments],
        parameters: Vec::new(),
        modes: Vec::new(),
        defaults,
        variadic,
        returns: Oid(25),
        returns_set: false,
        language: "sql".into(),
        volatility: Volatility::Volatile,
        security_definer: false,
        settings: false,
        search_path: None,
        body: None,
        body_is_bound: false,
    }
}

fn catalog() -> Arc<Catalog> {
    let mut builder = Builder::new(CatalogLimits::default(), 150_004, "shop");
    for (oid, schema, name, rows) in [
        (1, "pg_catalog", "pg_class", 400.0),
        (2, "public", "pg_class", 1.0),
        (3, "public", "people", 10.0),
        (4, "hr", "people", 20.0),
        (5, "hr", "salaries", -1.0),
        (6, "public", "parts", 0.0),
        (7, "public", "parts_1", 30.0),
        (8, "public", "parts_2", 12.0),
    ] {
        builder.relation(relation(oid, schema, name), rows).unwrap();
    }
    builder.column(Oid(3), column(2, "ssn")).unwrap();
    builder.column(Oid(3), column(1, "id")).unwrap();
    builder.parent(Oid(7), Oid(6)).unwrap();
    builder.parent(Oid(8), Oid(6)).unwrap();
    for made in [
        function(10, "pg_catalog", "lower", 1, 0, false),
        function(16_390, "public", "lower", 1, 0, false),
        function(16_391, "public", "f", 3, 1, false),
        function(16_392, "public", "g", 2, 0, true),
    ] {
        builder.function(made).unwrap();
    }
    for (for_database, role, value) in [
        (false, Some("ann"), "hr"),
        (true, None, "\"$user\", hr, public"),
        (true, Some("bob"), "public, pg_temp, pg_catalog"),
    ] {
        builder
            .search_path(SearchPathSetting {
                for_database,
                role: role.map(Into::into),
                value: value.into(),
            })
            .unwrap();
    }
    builder.system_search_path("\"$user\", public");
    Arc::new(builder.finish())
}

fn names(path: Option<&[&str]>) -> Names {
    let path = path.map(|path| path.iter().map(|schema| Name::from(*schema)).collect());
    Names::new(catalog(), path, Temporary::default())
}

fn oids(resolved: &Resolved<'_, Relation>) -> Option<Vec<u32>> {
    Some(resolved.candidates()?.iter().map(|found| found.oid.0).collect())
}

#[test]
fn names_are_found_as_the_server_finds_them() {
    for (path, schema, name, expected) in [
        (Some(&["public"][..]), None, "people", Some(vec![3])),
        (Some(&["hr"]), None, "people", Some(vec![4])),
        // Which of the two depends on whether the user may use the first schema.
        (Some(&["hr", "public"]), None, "people", Some(vec![4, 3])),
        (Some(&["hr", "public", "hr"]), None, "people", Some(vec![4, 3])),
        (Some(&["public"]), Some("hr"), "people", Some(vec![4])),
        (Some(&["public"]), Some("nowhere"), "people", None),
        (Some(&["public"]), None, "salaries", None),
        (Some(&["gone", "hr"]), None, "salaries", Some(vec![5])),
        // pg_catalog comes first unless it is named.
        (Some(&["public"]), None, "pg_class", Some(vec![1])),
        (
            Some(&["public", "pg_catalog"]),
            None,
            "pg_class",
            Some(vec![2, 1]),
        ),
        // Of a path that isn't known, any.
        (None, None, "people", Some(vec![3, 4])),
        (None, None, "salaries", Some(vec![5])),
        (None, None, "nothing", None),
        (Some(&["public"]), Some("pg_temp"), "people", None),
    ] {
        let names = names(path);
        assert_eq!(
            oids(&names.relation(schema, name)),
            expected,
            "{path:?} {schema:?} {name}"
        );
    }
}

#[test]
fn what_may_be_temporary_may_be_anything() {
    let only = Temporary::Only(["people".into()].into());
    for temporary in [only.clone(), Temporary::Any] {
        let names = Names::new(catalog(), Some(vec!["public".into()]), temporary.clone());
        assert_eq!(names.relation(None, "people"), Resolved::Missing);
        assert_eq!(oids(&names.relation(Some("public"), "people")), Some(vec![3]));
        let other = oids(&names.relation(None, "parts"));
        assert_eq!(other, (temporary == only).then(|| vec![6]));
    }
}

#[test]
fn calls_may_mean_any_overload_of_the_path() {
    let names = names(Some(&["public"]));
    let called = |schema, name, arguments| -> Vec<u32> {
        let mut found: Vec<u32> = names
            .functions(schema, name, arguments)
            .iter()
            .map(|found| found.oid.0)
            .collect();
        found.sort_unstable();
        found
    };
    // By its types, the server may prefer the user's over its own.
    assert_eq!(called(None, "lower", 1), [10, 16_390]);
    assert_eq!(called(Some("pg_catalog"), "lower", 1), [10]);
    for (arguments, fits) in [(1, false), (2, true), (3, true), (4, false)] {
        assert_eq!(!called(None, "f", arguments).is_empty(), fits, "{arguments}");
    }
    for (arguments, fits) in [(0, false), (1, true), (2, true), (9, true)] {
        assert_eq!(!called(None, "g", arguments).is_empty(), fits, "{arguments}");
    }
    assert!(called(Some("pg_temp"), "f", 3).is_empty());
}

#[test]
fn sessions_begin_with_the_path_that_wins() {
    let catalog = catalog();
    let path = |user, asked| {
        catalog
            .search_path_at_start(user, asked)
            .map(|path| path.join("|"))
    };
    assert_eq!(path("ann", None).as_deref(), Some("hr"));
    assert_eq!(path("bob", None).as_deref(), Some("public|pg_catalog"));
    assert_eq!(path("eve", None).as_deref(), Some("eve|hr|public"));
    assert_eq!(path("ann", Some("a, \"B\"")).as_deref(), Some("a|B"));
    assert_eq!(path("ann", Some("a,,b")), None);
    // What is made without a schema is temporary then.
    assert_eq!(path("ann", Some("pg_temp, a")), None);
    let bare = Builder::new(CatalogLimits::default(), 150_004, "shop").finish();
    assert_eq!(bare.search_path_at_start("ann", None), None);
}

#[test]
fn rows_of_children_are_part() {
    let catalog = catalog();
    assert_eq!(catalog.rows(Oid(3)), Some(10));
    assert_eq!(catalog.rows(Oid(6)), Some(42));
    assert_eq!(catalog.rows(Oid(5)), None, "never counted");
    let fresh = catalog.with_estimates([(Oid(5), 7.0)].into());
    assert_eq!(fresh.rows(Oid(5)), Some(7));
    assert!(fresh.version() > catalog.version());
}

#[test]
fn columns_are_in_their_order() {
    let catalog = catalog();
    let people = catalog.relation_in("public", "people").unwrap();
    let found: Vec<&str> = people.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(found, ["id", "ssn"]);
    assert_eq!(people.column("ssn").unwrap().number, 2);
    assert_eq!(catalog.relation_of_row_type(Oid(1_000_003)).unwrap().oid, Oid(3));
}

#[test]
fn a_catalog_that_is_too_large_is_none() {
    let limits = CatalogLimits {
        relations: 2,
        bytes: 10_000,
    };
    let mut builder = Builder::new(limits, 150_004, "shop");
    builder.relation(relation(1, "a", "b"), 0.0).unwrap();
    builder.relation(relation(2, "a", "c"), 0.0).unwrap();
    assert_eq!(
        builder.relation(relation(3, "a", "d"), 0.0),
        Err(TooLarge::Relations(2))
    );
    let long = "x".repeat(10_000);
    assert_eq!(builder.definition(Oid(1), &long), Err(TooLarge::Bytes(10_000)));
}
