import java.sql.DriverManager;

/** Connects once for each user and sslmode, and says what came of it. Arguments: host, CA, password, users. */
final class TlsTable {
    private TlsTable() {}

    public static void main(String[] arguments) {
        String[] modes = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"};
        for (int place = 3; place < arguments.length; place++) {
            for (String mode : modes) {
                String url = "jdbc:postgresql://" + arguments[0] + ":5432/postgres?sslmode=" + mode
                        + "&sslrootcert=" + arguments[1];
                String said = "yes";
                try (var connection = DriverManager.getConnection(url, arguments[place], arguments[2]);
                        var answer = connection.createStatement().executeQuery("select 1")) {
                    answer.next();
                } catch (Exception failure) {
                    said = String.valueOf(failure.getMessage()).replace('\n', ' ');
                }
                System.out.println("pgjdbc|" + arguments[place] + "|" + mode + "|" + said);
            }
        }
    }
}
