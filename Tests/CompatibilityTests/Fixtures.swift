import Foundation
import HSSLFormats

/// What is wrong with a fixture or a program's answer, in one line.
struct CompatibilityError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The folder `Fixtures`: files that an earlier build wrote and the values that it computed (see the README there).
///
/// Every file but the README is listed with its CRC-32C in `CHECKSUMS`, and no file is read without comparing: a
/// damaged fixture fails a test also where the values are only compared by their cosine.
struct Fixtures {
    static let checksumName = "CHECKSUMS"
    /// Beside this source file, so that what was recorded is tested without another build.
    static let folder = beside("Fixtures")
    /// The repository.
    static let root = beside("../..")

    private static func beside(_ name: String) -> String {
        URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(name).standardized.path
    }

    let folder: String
    private let checksums: [String: String]

    init(folder: String = Fixtures.folder) throws {
        self.folder = folder
        let text = try String(contentsOfFile: "\(folder)/\(Self.checksumName)", encoding: .utf8)
        guard text.hasSuffix("\n") else { throw CompatibilityError("\(Self.checksumName) does not end with a line") }
        var checksums: [String: String] = [:]
        for line in text.dropLast().split(separator: "\n", omittingEmptySubsequences: false) {
            let parts = line.components(separatedBy: "  ")
            guard parts.count == 2, checksums.updateValue(parts[0], forKey: parts[1]) == nil else {
                throw CompatibilityError("\(Self.checksumName): '\(line)' is not a checksum and the name of a file")
            }
        }
        self.checksums = checksums
        let files = try Self.files(in: folder)
        guard files == checksums.keys.sorted() else {
            throw CompatibilityError("\(Self.checksumName) lists \(checksums.keys.sorted()), the folder holds \(files)")
        }
    }

    var names: [String] { checksums.keys.sorted() }

    /// The bytes of a file.
    ///
    /// - Throws: where they are not those that were recorded.
    func data(_ name: String) throws -> Data {
        guard let expected = checksums[name] else { throw CompatibilityError("\(name) is not a fixture") }
        let data = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(name)"))
        let found = checksum(data)
        guard found == expected else {
            throw CompatibilityError("\(name) was damaged: its checksum is \(found), not \(expected)")
        }
        return data
    }

    /// The path of a file whose bytes are those that were recorded.
    func path(_ name: String) throws -> String {
        _ = try data(name)
        return "\(folder)/\(name)"
    }

    /// Lists the files of a folder anew.
    static func writeChecksums(folder: String = Fixtures.folder) throws {
        let lines = try files(in: folder).map { name in
            "\(checksum(try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(name)"))))  \(name)\n"
        }
        try lines.joined().write(toFile: "\(folder)/\(checksumName)", atomically: true, encoding: .utf8)
    }

    private static func files(in folder: String) throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: folder).filter { name in
            var isFolder: ObjCBool = false
            _ = FileManager.default.fileExists(atPath: "\(folder)/\(name)", isDirectory: &isFolder)
            return !isFolder.boolValue && name != checksumName && name != "README.md"
        }.sorted()
    }
}

/// CRC-32C, eight hexadecimal digits.
func checksum(_ data: Data) -> String {
    data.withUnsafeBytes { CRC32C($0) }.hexadecimal
}

/// `golden.json`: what is compared → instruction-set row → value (a checksum, or numbers as they were written).
///
/// Rows that all gave one value are one entry, `everyRow`.
struct GoldenTable {
    static let fileName = "golden.json"
    static let everyRow = "every row"
    private(set) var entries: [String: [String: String]]

    init(entries: [String: [String: String]] = [:]) { self.entries = entries }

    init(_ fixtures: Fixtures) throws {
        entries = try JSONDecoder().decode([String: [String: String]].self, from: try fixtures.data(Self.fileName))
    }

    /// The value that `row` must give; nil where that row was not recorded.
    ///
    /// - Throws: where nothing at all was recorded under `key`.
    func value(_ key: String, row: String) throws -> String? {
        guard let rows = entries[key], !rows.isEmpty else {
            throw CompatibilityError("\(Self.fileName) has no '\(key)'")
        }
        return rows[row] ?? rows[Self.everyRow]
    }

    mutating func record(_ key: String, _ values: [String: String]) {
        let different = Set(values.values)
        entries[key] = different.count == 1 && values.count > 1 ? [Self.everyRow: different.first ?? ""] : values
    }

    func write(folder: String = Fixtures.folder) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        try (encoder.encode(entries) + Data("\n".utf8)).write(to: URL(fileURLWithPath: "\(folder)/\(Self.fileName)"))
    }
}
