/// How far an interrupted extraction came and what it was: `FILE.partial.journal`, one JSON object, replaced whole each
/// time.
struct EmbeddingJournal: Equatable {
    /// What the result depends on, by name.
    var run: [EmbeddingRun.Part]
    var position: EmbeddingOutput.Position
    var embeddings: PartialFile.Extent
    var index: PartialFile.Extent

    private static let version = 1

    static func path(partial: String) -> String { partial + ".journal" }

    func write(to path: String, calls: SystemCalls) throws(FileError) {
        var run = JSONObject()
        for part in self.run { run[part.name] = .string(part.value) }
        func extent(_ extent: PartialFile.Extent) -> JSONValue {
            ["bytes": .integer(extent.count), "crc32c": .integer(Int(extent.checksum))]
        }
        let document: JSONValue = [
            "version": .integer(Self.version), "run": .object(run), "inputs": .integer(position.inputs),
            "inputs_crc32c": .integer(Int(position.stamp)), "rows": .integer(position.rows),
            "skipped": .integer(position.skipped), "embeddings": extent(embeddings), "index": extent(index),
        ]
        try AtomicFile.write(document.bytes() + [UInt8(ascii: "\n")], to: path, calls: calls)
    }

    /// - Throws: `FileError` for a file that is no journal of this version.
    init(path: String) throws(FileError) {
        let bytes = try readFile(at: path, limit: 1 << 20)
        do {
            let value = try JSONValue.parse(String(decoding: bytes, as: UTF8.self))
            func count(_ key: String, of object: JSONValue, to limit: Int = .max) throws(JSONError) -> Int {
                try object.integer(key, in: "journal", range: 0...limit)
            }
            func checksum(_ key: String, of object: JSONValue) throws(JSONError) -> UInt32 {
                UInt32(truncatingIfNeeded: try count(key, of: object, to: Int(UInt32.max)))
            }
            func extent(_ key: String) throws(JSONError) -> PartialFile.Extent {
                let object = try value.value(key, in: "journal")
                return PartialFile.Extent(
                    count: try count("bytes", of: object), checksum: try checksum("crc32c", of: object))
            }
            guard try count("version", of: value) == Self.version,
                  case .object(let run)? = try value.member("run", in: "journal") else {
                throw JSONError("of another version")
            }
            self.run = run.keys.map { EmbeddingRun.Part($0, run[$0]?.asString ?? "") }
            position = EmbeddingOutput.Position(
                inputs: try count("inputs", of: value), rows: try count("rows", of: value),
                skipped: try count("skipped", of: value), stamp: try checksum("inputs_crc32c", of: value))
            embeddings = try extent("embeddings")
            index = try extent("index")
        } catch {
            throw FileError(path: path, reason: "is no journal of an extraction: \(error)")
        }
    }

    init(
        run: [EmbeddingRun.Part], position: EmbeddingOutput.Position, embeddings: PartialFile.Extent,
        index: PartialFile.Extent
    ) {
        (self.run, self.position, self.embeddings, self.index) = (run, position, embeddings, index)
    }
}

/// What an extraction's result depends on: a resumed one must have the same.
package struct EmbeddingRun {
    package struct Part: Equatable {
        package let name: String
        package let value: String
        /// - Parameter name: a flag (`--features`), whose values are shown, or what else it is (`model`).
        package init(_ name: String, _ value: String) { (self.name, self.value) = (name, value) }

        fileprivate var isShown: Bool { name.hasPrefix("--") || name == "instruction set" || name == "version" }
    }

    package let parts: [Part]
    /// How many inputs it has in all.
    package let inputCount: Int

    package init(_ parts: [Part], inputCount: Int) { (self.parts, self.inputCount) = (parts, inputCount) }

    /// What another run did otherwise, in words; nil where nothing.
    func difference(from other: [Part]) -> String? {
        let differences = parts.compactMap { part -> String? in
            let value = other.first { $0.name == part.name }?.value ?? ""
            if value == part.value { return nil }
            return part.isShown ? "\(part.name) \(oneLine(value)), not \(oneLine(part.value))" : "another \(part.name)"
        }
        return differences.isEmpty ? nil : differences.joined(separator: "; ")
    }
}
