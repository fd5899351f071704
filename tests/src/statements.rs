//! Statements that are made up: what a client may try to see a column by.

/// Makes statements over the tables `people`, `orders` and `notes`, the views `v` and `w`, and what sessions make themselves.
/// From one seed, always the same.
#[derive(Debug)]
pub struct Statements {
    state: u64,
    /// What FROM names, of the statement and of those around it: aliases and their columns.
    scopes: Vec<Vec<Named>>,
}

/// A relation's alias and its columns.
type Named = (String, Vec<String>);

/// Relations and their columns. Those with what is hidden stand here several times, so that it is asked for.
const RELATIONS: &[(&str, &[&str])] = &[
    ("people", PEOPLE),
    ("people", PEOPLE),
    ("people", PEOPLE),
    ("public.people", PEOPLE),
    ("only people", PEOPLE),
    ("orders", &["id", "person", "amount"]),
    ("orders", &["id", "person", "amount"]),
    ("notes", &["person", "body", "ssn"]),
    ("v", &["id", "shown", "more"]),
    ("w", &["whole"]),
    ("t1", &["id", "x", "ssn"]),
];
const PEOPLE: &[&str] = &["id", "name", "ssn", "salary", "note"];
const ALIASES: &[&str] = &["p", "q", "o", "r", "ssn", "x", "people"];
const NAMES: &[&str] = &["x", "y", "id", "name", "ssn", "salary", "note"];
/// Functions and operators around a value: `#` is the value as it is, `@` as a text.
const AROUND: &[&str] = &[
    "upper(@)",
    "length(@)",
    "md5(@)",
    "to_json(#)",
    "to_jsonb(#)",
    "json_agg(#)",
    "array_agg(#)",
    "count(#)",
    "count(distinct #)",
    "max(@)",
    "min(#)",
    "string_agg(@, ',')",
    "concat(#, 'a')",
    "coalesce(#)",
    "coalesce(@, 'none')",
    "quote_literal(@)",
    "reverse(@)",
    "octet_length(@)",
    "pg_typeof(#)",
    "num_nulls(#)",
    "greatest(@, 'a')",
    "nullif(@, 'a')",
    "json_build_object('k', #)",
    "unnest(array[#])",
    "hashtext(@)",
    "pg_column_size(#)",
    "text(#)",
    "told(1)",
    "row_number() over (order by #)",
    "lag(#) over ()",
    "rank() over (partition by # order by id)",
    "first_value(@) over (order by @ desc)",
    "count(*) filter (where # is not null)",
    "percentile_disc(0.5) within group (order by @)",
    "format('%s', #)",
    "row_to_json(row(#))",
    "@ || 'x'",
    "@ = 'qwertyui' || 'o'",
    "@ < 'm'",
    "@ like 'q%'",
    "@ ~ '^1'",
    "# is null",
    "# is not null",
    "# in (select person from orders)",
    "@ = any (array['a'])",
    "(@)::int",
    "(@)::int[]",
    "(@)::people",
    "(@)::varchar(3)",
    "(#)::text",
    "cast(@ as name)",
    "case when @ > 'm' then 1 else 0 end",
    "case id when 1 then # end",
    "array[#]",
    "(array[#])[1]",
    "row(#)",
    "(row(#)).f1",
    "exists (select # )",
    "(select #)",
    "array(select #)",
    "# is distinct from null",
    "@ collate \"C\"",
    "(#)",
    "(#) + 0",
    "1 / (# - 10)",
    "substr(@, 1, 2)",
    "left(@, 1)",
    "position('1' in @)",
    "overlay(@ placing 'x' from 1)",
    "extract(year from @::date)",
    "xmlelement(name a, #)",
    "grouping(#)",
];
const VALUES: &[&str] = &["1", "2", "0", "'x'", "null", "true", "'name1'"];

impl Statements {
    /// Those of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            scopes: Vec::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from((self.state >> 11) % bound.max(1) as u64).unwrap_or_default()
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Copy + Default>(&mut self, all: &[T]) -> T {
        let place = self.below(all.len());
        all.get(place).copied().unwrap_or_default()
    }

    fn maybe(&mut self, times: usize, text: impl FnOnce(&mut Self) -> String) -> String {
        if self.one_in(times) {
            text(self)
        } else {
            String::new()
        }
    }

    fn list(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> String) -> String {
        let count = 1 + self.below(most);
        let all: Vec<String> = (0..count).map(|_| one(self)).collect();
        all.join(", ")
    }

    /// One to three statements that go together.
    pub fn session(&mut self) -> Vec<String> {
        (0..=self.below(3)).map(|_| self.statement()).collect()
    }

    fn statement(&mut self) -> String {
        self.scopes.clear();
        match self.below(32) {
            0 => {
                let (query, _) = self.query(2);
                let kind = self.of(&["table", "table", "view"]);
                format!("create temp {kind} t1 (id, x, ssn) as {query}")
            }
            1 => {
                let into = self.of(&["orders", "notes", "people", "people (id, ssn)", "notes (body)"]);
                let rows = match self.below(3) {
                    0 => "values (9, '9', '9')".to_owned(),
                    _ => self.query(2).0,
                };
                let conflict = self.maybe(4, |_| " on conflict do nothing".to_owned());
                self.scopes.push(vec![named("people", PEOPLE)]);
                let returning = self.returning();
                format!("insert into {into} {rows}{conflict}{returning}")
            }
            2 | 3 => {
                let alias = self.of(&["people", "p"]);
                self.scopes.push(vec![named(alias, PEOPLE)]);
                let set = self.assignments();
                let from = self.maybe(3, |this| format!(" from {}", this.source(1)));
                let condition = self.condition();
                let returning = self.returning();
                format!("update people as {alias} set {set}{from}{condition}{returning}")
            }
            4 => {
                self.scopes.push(vec![named("people", PEOPLE)]);
                let using = self.maybe(3, |this| format!(" using {}", this.source(1)));
                let condition = self.condition();
                let returning = self.returning();
                format!("delete from people{using}{condition}{returning}")
            }
            5 => match self.below(3) {
                0 => format!("copy ({}) to stdout", self.query(2).0),
                1 => format!(
                    "copy {} to stdout",
                    self.of(&["people", "orders", "notes", "v", "t1"])
                ),
                _ => {
                    let column = self.of(PEOPLE);
                    format!("copy people (id, {column}) to stdout (format csv, header)")
                }
            },
            6 => format!("declare c cursor for {}", self.query(2).0),
            7 => self
                .of(&["fetch all c", "fetch 2 c", "move 1 c", "close c"])
                .to_owned(),
            8 => {
                let name = self.of(&["p1", "p2"]);
                format!("prepare {name} as {}", self.query(2).0)
            }
            9 => format!("execute {}", self.of(&["p1", "p2"])),
            10 => format!("explain (costs off) {}", self.query(2).0),
            11 => format!("{}; {}", self.query(1).0, self.query(1).0),
            12 => {
                self.scopes.push(Vec::new());
                let source = self.source(1);
                let (items, _) = self.items();
                format!("select {items} into temp t1 from {source}")
            }
            13 => {
                self.scopes.push(vec![named("p", PEOPLE)]);
                let source = self.source(1);
                let (on, set) = (self.expression(1), self.assignments());
                format!(
                    "merge into people p using {source} on ({on}) is not null when matched then update set {set}"
                )
            }
            14 => self
                .of(&[
                    "table people",
                    "table v",
                    "set search_path = pg_temp, public",
                    "set enable_seqscan = off",
                    "savepoint s",
                    "rollback to s",
                    "analyze people",
                    "select * from pg_stats where tablename = 'people'",
                    "alter table people rename ssn to x",
                    "truncate notes",
                    "lock people",
                    "select query_to_xml('select * from people', true, false, '')",
                    "select table_to_xml('people', true, false, '')",
                    "comment on column people.ssn is 'x'",
                ])
                .to_owned(),
            15..=21 => self.query(3).0,
            _ => self.nearly_plain(),
        }
    }

    /// One plain SELECT of columns, which may be masked in place, with at most a little that makes it another.
    fn nearly_plain(&mut self) -> String {
        const ITEMS: &[&str] = &[
            "*",
            "p.*",
            "o.*",
            "id",
            "p.id",
            "ssn",
            "p.ssn",
            "p.ssn as name",
            "ssn as x",
            "name as ssn",
            "p.name as \"ssn\"",
            "salary",
            "p.salary as id",
            "salary as x",
            "people.ssn",
            "public.people.ssn",
            "p",
            "people",
            "ssn.ssn",
            "ssn",
            "1 as ssn",
            "'a' as x",
            "count(*)",
            "count(*) over ()",
            "p.name as n",
            "amount",
            "o.amount as salary",
            "note",
            "(p).ssn",
            "(p.*)",
            "upper(name) as name",
            "n.ssn as y",
            "q.ssn as z",
            "p.ctid",
            "p.tableoid",
            "p.xmin is null as x",
            "p.text",
            "name",
            "p.name",
            "null as ssn",
            "z.x",
        ];
        let mut from = self
            .of(&[
                "people",
                "people as p",
                "people as p",
                "people as p",
                "public.people as p",
                "people as p, orders as o",
                "orders as o join people as p on p.id = o.person",
                "people as p(ssn, name, id, note)",
                "people as ssn",
                "notes as n, people as p",
                "people as p natural join orders as o",
                "people as p join notes as n using (ssn)",
                "people as p, lateral (select p.ssn as x) as z",
                "(select * from people) as p",
                "(people as p cross join orders as o) as p",
                "people as p, people as q",
                "people as p left join (select id, name from people) as o on true",
            ])
            .to_owned();
        let items = self.list(5, |this| {
            // Mostly what is there; else most of them would fail for a name.
            let is_there = |item: &str| match item.split_once('.') {
                Some((alias, _)) if alias.len() == 1 => from.contains(&format!("as {alias}")),
                _ => true,
            };
            (0..6)
                .map(|_| this.of(ITEMS))
                .find(|item| is_there(item))
                .unwrap_or("id")
                .to_owned()
        });
        if self.one_in(12) {
            from = self
                .of(&["people as x", "only people as p", "t1 as p", "v as p"])
                .to_owned();
        }
        let rest = self.maybe(2, |this| {
            this.of(&[
                " where id = 1",
                " where p.id = 2",
                " where ssn is not null",
                " where x is not null",
                " order by id",
                " order by p.id desc limit 2",
                " order by 1",
                " order by x",
                " order by name",
                " order by ssn",
                " order by n",
                " group by x",
                " group by 1",
                " group by id, p.id",
                " group by p.id",
                " for update",
                " for share of p",
                " limit 1",
                " limit (select 1)",
                " union all select 1",
                " where exists (select 1 from orders where person = p.id)",
                " where name = 'name1'",
                " where (p.name, 1) = ('name1', 1)",
                " where p.id in (select person from orders)",
                " where p is not null",
                " where people is not null",
                " having true",
                " window w as (order by id)",
            ])
            .to_owned()
        });
        let distinct = self.maybe(12, |this| {
            this.of(&["distinct ", "all ", "distinct on (id) "]).to_owned()
        });
        let around = self.of(&[
            "#",
            "#",
            "#",
            "#",
            "#",
            "#",
            "#",
            "#",
            "(#)",
            "select * from (#) as p",
            "with p as (#) select * from p",
            "with x as (select 1) #",
            "copy (#) to stdout",
            "declare c cursor for #",
            "prepare p1 as #",
            "explain (costs off) #",
            "create temp table t1 as #",
            "insert into notes (body) #",
            "select array(#)",
            "select exists (#)",
            "table people",
            "# ;",
        ]);
        around.replace('#', &format!("select {distinct}{items} from {from}{rest}"))
    }

    /// A query and the names of its columns.
    fn query(&mut self, depth: usize) -> (String, Vec<String>) {
        let with = self.maybe(8, |this| {
            let kind = this.of(&["", "", "materialized ", "not materialized "]);
            let query = match this.below(4) {
                0 => {
                    let items = this.of(&["*", "id, ssn as x", "ssn", "people", "id"]);
                    format!("update people set note = 'u' returning {items}")
                }
                _ => this.query(depth.saturating_sub(1)).0,
            };
            let name = this.of(&["t1 (id, x, ssn)", "t1", "t1 (id)", "orders", "people"]);
            format!("with {name} as {kind}({query}) ")
        });
        let (select, names) = self.select(depth);
        let other = self.maybe(8, |this| {
            let kind = this.of(&["union", "union all", "except", "intersect"]);
            format!(" {kind} {}", this.select(depth.saturating_sub(1)).0)
        });
        let order = self.maybe(5, |this| {
            let name = names
                .get(this.below(names.len()))
                .map_or("1", String::as_str)
                .to_owned();
            let by = if this.one_in(2) { "1".to_owned() } else { name };
            let way = this.of(&["", " desc", " nulls first"]);
            format!(" order by {by}{way}")
        });
        let limit = self.maybe(6, |this| {
            this.of(&[" limit 1", " limit 2 offset 1", " fetch first 2 rows only"])
                .to_owned()
        });
        let locks = self.maybe(15, |_| " for update".to_owned());
        (format!("{with}{select}{other}{order}{limit}{locks}"), names)
    }

    fn select(&mut self, depth: usize) -> (String, Vec<String>) {
        if self.one_in(30) {
            return ("values (1, 'a', 2)".to_owned(), vec!["column1".to_owned()]);
        }
        self.scopes.push(Vec::new());
        let mut source = self.source(depth);
        if self.one_in(4) {
            source = format!("{source}, {}", self.source(depth));
        }
        let (items, names) = self.items();
        let distinct = self.maybe(10, |this| match this.below(2) {
            0 => "distinct ".to_owned(),
            _ => format!("distinct on ({}) ", this.expression(1)),
        });
        let condition = self.condition();
        let group = self.maybe(8, |this| {
            let by = this.list(2, |this| match this.below(3) {
                0 => this.of(&["1", "1, 2", "rollup (1)", "()"]).to_owned(),
                _ => this.column(),
            });
            let having = this.maybe(3, |this| format!(" having ({}) is not null", this.expression(1)));
            format!(" group by {by}{having}")
        });
        self.scopes.pop();
        (
            format!("select {distinct}{items} from {source}{condition}{group}"),
            names,
        )
    }

    /// Entries of a select list, and the names that they have.
    fn items(&mut self) -> (String, Vec<String>) {
        let mut names = Vec::new();
        let mut all = Vec::new();
        for _ in 0..=self.below(3) {
            let here = self.scopes.last().cloned().unwrap_or_default();
            match self.below(8) {
                0 => {
                    names.extend(here.into_iter().flat_map(|(_, columns)| columns));
                    all.push("*".to_owned());
                }
                1 => {
                    let Some((alias, columns)) = here.get(self.below(here.len())) else {
                        continue;
                    };
                    names.extend(columns.iter().cloned());
                    all.push(format!("{alias}.*"));
                }
                2 | 3 => {
                    let column = self.column();
                    names.push(column.rsplit('.').next().unwrap_or_default().to_owned());
                    all.push(column);
                }
                4 => {
                    let (column, name) = (self.column(), self.of(NAMES));
                    names.push(name.to_owned());
                    all.push(format!("{column} as {name}"));
                }
                _ => {
                    let (value, name) = (self.expression(2), self.of(NAMES));
                    names.push(name.to_owned());
                    all.push(format!("{value} as {name}"));
                }
            }
        }
        if all.is_empty() {
            all.push("1 as x".to_owned());
            names.push("x".to_owned());
        }
        (all.join(", "), names)
    }

    /// Mostly one that is there.
    fn column(&mut self) -> String {
        let outer = self.scopes.len() > 1 && self.one_in(6);
        let scope = if outer {
            self.scopes.get(self.scopes.len() - 2)
        } else {
            self.scopes.last()
        };
        let scope = scope.cloned().unwrap_or_default();
        let Some((alias, columns)) = scope.get(self.below(scope.len())) else {
            return self.of(NAMES).to_owned();
        };
        let column = match columns.get(self.below(columns.len())) {
            Some(column) if !self.one_in(12) => column.clone(),
            _ => self.of(NAMES).to_owned(),
        };
        match self.below(8) {
            0 | 1 if scope.len() == 1 => column,
            2 => format!("({alias}).{column}"),
            3 if self.one_in(3) => alias.clone(),
            4 if self.one_in(3) => format!("public.people.{column}"),
            5 if scope.len() == 1 => column,
            _ => format!("{alias}.{column}"),
        }
    }

    fn condition(&mut self) -> String {
        self.maybe(3, |this| match this.below(4) {
            0 => " where 1 = 1".to_owned(),
            1 => {
                let column = this.column();
                format!(" where {column} is not null")
            }
            2 => " where current of c".to_owned(),
            _ => format!(" where ({}) is not null", this.expression(2)),
        })
    }

    fn assignments(&mut self) -> String {
        match self.below(8) {
            0 => "(note, name) = (select 'a', 'b')".to_owned(),
            1 => "salary = 1000".to_owned(),
            2 => "ssn = 'never'".to_owned(),
            3 => "note = 'n'".to_owned(),
            _ => {
                let column = self.of(&["name", "note", "ssn"]);
                let value = self.expression(2);
                format!("{column} = ({value})::text")
            }
        }
    }

    fn returning(&mut self) -> String {
        self.maybe(2, |this| format!(" returning {}", this.items().0))
    }

    fn enter(&mut self, alias: &str, columns: Vec<String>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.push((alias.to_owned(), columns));
        }
    }

    /// An alias that isn't in use here, if one is found soon.
    fn alias(&mut self) -> &'static str {
        let mut found = self.of(ALIASES);
        for _ in 0..4 {
            let used = self
                .scopes
                .last()
                .is_some_and(|scope| scope.iter().any(|(alias, _)| alias == found));
            if !used {
                break;
            }
            found = self.of(ALIASES);
        }
        found
    }

    fn source(&mut self, depth: usize) -> String {
        match self.below(12) {
            0 | 1 if depth > 0 => {
                let lateral = self.of(&["", "", "lateral "]);
                let (query, mut columns) = self.query(depth - 1);
                let alias = self.alias();
                let renamed = self.maybe(4, |_| "(x)".to_owned());
                if let (false, Some(first)) = (renamed.is_empty(), columns.first_mut()) {
                    "x".clone_into(first);
                }
                self.enter(alias, columns);
                format!("{lateral}({query}) as {alias}{renamed}")
            }
            2 if depth > 0 => {
                let (left, right) = (self.source(depth - 1), self.source(depth - 1));
                match self.below(5) {
                    0 => format!("{left} natural join {right}"),
                    1 => format!("{left} cross join {right}"),
                    2 => {
                        let by = self.of(&["id", "ssn", "name", "person"]);
                        format!("{left} left join {right} using ({by})")
                    }
                    3 => {
                        let on = self.expression(1);
                        format!("{left} join {right} on ({on}) is not null")
                    }
                    _ => format!("{left} join {right} on 1 = 1"),
                }
            }
            3 if depth > 0 => {
                let call = self.of(&[
                    "unnest(array[1, 2])",
                    "generate_series(1, 2)",
                    "json_each_text('{\"a\": 1}')",
                    "told(1)",
                ]);
                let alias = self.alias();
                self.enter(alias, vec![alias.to_owned()]);
                format!("{call} as {alias}")
            }
            4 if depth > 0 => {
                let call = self.of(&[
                    "json_each_text(row_to_json(p))",
                    "unnest(array[p.ssn])",
                    "coalesce(p.ssn)",
                    "generate_series(1, p.salary)",
                ]);
                self.enter("p", PEOPLE.iter().map(|name| (*name).to_owned()).collect());
                self.enter("z", vec!["z".to_owned(), "value".to_owned()]);
                format!("people as p, {call} as z")
            }
            _ => {
                let (relation, columns) = self.of(RELATIONS);
                let mut columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
                if self.one_in(3) {
                    let bare = relation.rsplit([' ', '.']).next().unwrap_or_default();
                    self.enter(bare, columns);
                    return relation.to_owned();
                }
                let alias = self.alias();
                let renamed = self.maybe(8, |this| {
                    let new = this.of(&[&["a", "b", "c"][..], &["ssn", "id"], &["x", "ssn", "name", "y"]]);
                    for (column, new) in columns.iter_mut().zip(new) {
                        (*new).clone_into(column);
                    }
                    let few = new.len().min(columns.len());
                    format!("({})", new.get(..few).unwrap_or_default().join(", "))
                });
                self.enter(alias, columns);
                format!("{relation} as {alias}{renamed}")
            }
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 || self.one_in(5) {
            return if self.one_in(5) {
                self.of(VALUES).to_owned()
            } else {
                self.column()
            };
        }
        if self.one_in(8) {
            let around = self.of(&["", "exists ", "array", "1 in ", "'a' = any "]);
            let (query, _) = self.query(depth - 1);
            return format!("{around}({query})");
        }
        let value = self.expression(depth - 1);
        let around = self.of(AROUND);
        around
            .replace('@', &format!("({value})::text"))
            .replace('#', &value)
    }
}

fn named(alias: &str, columns: &[&str]) -> Named {
    (
        alias.to_owned(),
        columns.iter().map(|name| (*name).to_owned()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_statements_each_time() {
        let made = |seed| -> Vec<Vec<String>> {
            let mut statements = Statements::new(seed);
            (0..20).map(|_| statements.session()).collect()
        };
        assert_eq!(made(3), made(3));
        assert_ne!(made(3), made(4));
    }
}
