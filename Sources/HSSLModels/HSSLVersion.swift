/// The version that `--version` prints and model files record.
public enum HSSLVersion {
    /// The version of this source tree, `MAJOR.MINOR.PATCH`.
    public static let current = "0.1.0"
}
