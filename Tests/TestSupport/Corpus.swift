import Foundation

/// What a fuzzer found to lead a parser each another way (`tools/fuzz --pack`).
public enum Corpus {
    /// - Throws: where the archive is not there, or tar cannot read it.
    public static func inputs(_ target: String) throws -> [(name: String, bytes: [UInt8])] {
        let archive = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("tools/fuzzers/corpora/\(target).tar.xz")
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("hssl-corpus-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let tar = Process()
        tar.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        tar.arguments = ["tar", "-xJf", archive.path, "-C", folder.path]
        try tar.run()
        tar.waitUntilExit()
        guard tar.terminationStatus == 0 else { throw CocoaError(.fileReadCorruptFile) }
        return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .sorted { $0.path < $1.path }.map { ($0.lastPathComponent, Array(try Data(contentsOf: $0))) }
    }
}
