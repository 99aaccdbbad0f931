/// The version that `--version` prints and model files record.
public enum HSSLVersion {
    public static let current = "0.1.0"
}
