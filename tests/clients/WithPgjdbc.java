// pgjdbc at work: everything that it prints is the same with and without something in between.
import java.io.*;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import org.postgresql.*;
import org.postgresql.copy.*;
import org.postgresql.largeobject.*;

class WithPgjdbc {
    interface Does { void now() throws Exception; }

    static void fails(Does does) throws Exception {
        try { does.now(); System.out.println("no error"); } catch (SQLException error) {
            System.out.println("error " + error.getSQLState() + " " + error.getMessage().lines().findFirst().orElse(""));
        }
    }

    static Connection open(String more) throws SQLException {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + "/" + System.getenv("PGDATABASE") + "?sslmode=disable&user=postgres" + more;
        return DriverManager.getConnection(url);
    }

    static void show(ResultSet rows) throws SQLException {
        ResultSetMetaData about = rows.getMetaData();
        while (rows.next()) {
            StringBuilder line = new StringBuilder();
            for (int n = 1; n <= about.getColumnCount(); n++) {
                Object value = rows.getObject(n);
                if (value instanceof byte[]) value = Arrays.toString((byte[]) value);
                if (value instanceof Array) value = Arrays.deepToString((Object[]) ((Array) value).getArray());
                line.append(about.getColumnName(n)).append(':').append(about.getColumnTypeName(n)).append('=').append(value).append(' ');
            }
            System.out.println(line);
        }
    }

    static void work(String mode, Connection c) throws Exception {
        System.out.println("== " + mode);
        try (Statement s = c.createStatement()) {
            s.execute("drop table if exists t; create table t (id int primary key, name text, score numeric, face bytea, born timestamptz, tags text[])");
            System.out.println("warnings " + (s.getWarnings() == null ? null : s.getWarnings().getMessage()));
        }
        try (PreparedStatement put = c.prepareStatement("insert into t values (?, ?, ?, ?, ?, ?)")) {
            for (int n = 0; n < 120; n++) {
                put.setInt(1, n);
                put.setString(2, n % 7 == 0 ? null : "näme " + n);
                put.setBigDecimal(3, new BigDecimal(n).movePointLeft(2));
                // Its simple mode can't write these.
                if (mode.equals("simple")) put.setNull(4, Types.NULL); else put.setBytes(4, new byte[] {(byte) n, 0});
                put.setTimestamp(5, new Timestamp(n * 1000L));
                put.setArray(6, c.createArrayOf("text", new String[] {"a", null, "" + n}));
                put.addBatch();
            }
            System.out.println("batch " + Arrays.stream(put.executeBatch()).filter(n -> n == 1 || n == Statement.SUCCESS_NO_INFO).count());
        }
        // From the fifth time on pgjdbc names the statement, and takes results in binary.
        try (PreparedStatement get = c.prepareStatement("select *, ?::int8 as given from t where id between ? and ? order by id")) {
            for (int n = 0; n < 9; n++) {
                get.setLong(1, 1L << (n + 40));
                get.setInt(2, n);
                get.setInt(3, n + 1);
                show(get.executeQuery());
            }
        }
        try (PreparedStatement made = c.prepareStatement("insert into t (id, name) values (1000, 'key')", Statement.RETURN_GENERATED_KEYS)) {
            made.executeUpdate();
            show(made.getGeneratedKeys());
        }
        // Portals with a limit need a transaction.
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.setFetchSize(11);
            ResultSet rows = s.executeQuery("select id from t order by id");
            long sum = 0;
            while (rows.next()) sum += rows.getInt(1);
            System.out.println("sum " + sum);
        }
        Savepoint point = c.setSavepoint("p");
        fails(() -> { try (Statement s = c.createStatement()) { s.execute("insert into t (id) values (1)"); } });
        fails(() -> { try (Statement s = c.createStatement()) { s.execute("select 1"); } });
        c.rollback(point);
        c.commit();
        LargeObjectManager objects = c.unwrap(PGConnection.class).getLargeObjectAPI();
        long id = objects.createLO();
        LargeObject object = objects.open(id);
        object.write("large ".repeat(20_000).getBytes(StandardCharsets.UTF_8));
        object.seek(60_000);
        System.out.println(new String(object.read(12), StandardCharsets.UTF_8) + object.tell64() + " " + object.size64());
        object.truncate64(10);
        object.close();
        objects.delete(id);
        fails(() -> objects.open(4_000_000_000L));
        c.rollback();
        c.setAutoCommit(true);
        CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
        System.out.println("in " + copy.copyIn("copy t (id, name) from stdin", new StringReader("2000\tone\n2001\t\\N\n")));
        StringWriter out = new StringWriter();
        System.out.println("out " + copy.copyOut("copy (select id, name from t where id > 110 order by id) to stdout (format csv)", out) + out);
        fails(() -> copy.copyIn("copy t (id) from stdin", new StringReader("x\n")));
        CopyIn given = copy.copyIn("copy t (id) from stdin");
        given.writeToCopy("3000\n".getBytes(StandardCharsets.UTF_8), 0, 5);
        given.cancelCopy();
        for (String text : new String[] {"select 1 +", "select nothing", "select * from nowhere", "select 1/0", "select 'x'::int"})
            fails(() -> { try (Statement s = c.createStatement()) { s.executeQuery(text); } });
        try (Statement s = c.createStatement()) {
            s.execute("do $$ begin raise notice 'n'; raise warning 'w'; end $$");
            for (SQLWarning w = s.getWarnings(); w != null; w = w.getNextWarning()) System.out.println("warning " + w.getSQLState() + " " + w.getMessage());
            s.execute("listen news; notify news, 'payload'");
            for (PGNotification note : c.unwrap(PGConnection.class).getNotifications(5000)) System.out.println("note " + note.getName() + " " + note.getParameter());
            boolean more = s.execute("select 1 as a; update t set name = 'x' where id < 3; select 'two' as b");
            while (true) {
                if (more) show(s.getResultSet()); else if (s.getUpdateCount() < 0) break; else System.out.println("updated " + s.getUpdateCount());
                more = s.getMoreResults();
            }
        }
        // Less than a statement may have: the simple mode writes it into the text.
        String big = "y".repeat(400_000);
        try (PreparedStatement p = c.prepareStatement("select ? || ?")) {
            p.setString(1, big);
            p.setString(2, big);
            ResultSet rows = p.executeQuery();
            rows.next();
            System.out.println("large " + rows.getString(1).equals(big + big));
        }
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            fails(() -> s.execute("select pg_sleep(30)"));
            show(s.executeQuery("select 'usable' as x"));
        }
        DatabaseMetaData about = c.getMetaData();
        try (ResultSet columns = about.getColumns(null, "public", "t", null)) {
            while (columns.next()) System.out.println(columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME"));
        }
        try (ResultSet keys = about.getPrimaryKeys(null, "public", "t")) { while (keys.next()) System.out.println(keys.getString("PK_NAME")); }
        try (ResultSet tables = about.getTables(null, "public", "%", null)) { while (tables.next()) System.out.println(tables.getString("TABLE_NAME")); }
    }

    public static void main(String[] arguments) throws Exception {
        TimeZone.setDefault(TimeZone.getTimeZone("UTC"));
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"})
            try (Connection c = open("&preferQueryMode=" + mode)) { work(mode, c); }
        try (Connection c = open("&binaryTransfer=true&prepareThreshold=-1&reWriteBatchedInserts=true&autosave=always")) { work("binary", c); }
        try (Connection c = open("")) {
            fails(() -> { try (Statement s = c.createStatement()) { s.execute("select pg_terminate_backend(pg_backend_pid())"); } });
            System.out.println("closed " + c.isClosed());
        }
    }
}
