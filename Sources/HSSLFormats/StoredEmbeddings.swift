/// The rows of an embeddings file (`.npy` or `.safetensors`) and the image that each belongs to.
package struct StoredEmbeddings: Sendable {
    package let path: String
    /// [D], or [N, D] for patch features.
    package let rowShape: [Int]
    /// [rows, …], row-major.
    package let values: [Float]
    /// The path of every row's image, as the index has it.
    package let names: [String]

    package var count: Int { names.count }

    /// Reads `path` and its index `path.index.jsonl`.
    ///
    /// - Throws: `FileError`, also where index and rows disagree.
    package init(path: String) throws(FileError) {
        self.path = path
        let shape: [Int]
        switch try EmbeddingFormat(path: path) {
        case .npy:
            let array = try NPYArray(path: path)
            (shape, values) = (array.shape, array.values)
        case .safetensors:
            do throws(SafetensorsError) {
                let file = try SafetensorsFile(path: path)
                shape = try file.tensor(SafetensorsEmbeddingWriter.tensorName).shape
                values = try file.floats(SafetensorsEmbeddingWriter.tensorName)
            } catch {
                throw FileError(path: path, reason: error.fault.reason)
            }
        case .csv, .jsonLines:
            throw FileError(path: path, reason: "embeddings are read from .npy and .safetensors")
        }
        guard shape.count >= 2, !shape.contains(0) else {
            throw FileError(path: path, reason: "an array of shape \(shape) has no rows of features")
        }
        if let index = values.withUnsafeBufferPointer(firstNonFinite) {
            throw FileError(path: path, reason: "value \(index) is \(values[index])")
        }
        rowShape = Array(shape.dropFirst())
        names = try Self.readIndex(of: path, rows: shape[0])
    }

    /// The names of rows 0 ..< rows: each must have exactly one.
    private static func readIndex(of embeddings: String, rows: Int) throws(FileError) -> [String] {
        let path = embeddings + ".index.jsonl"
        let bytes = try readFile(at: path, limit: 16 << 30)
        var names = [String?](repeating: nil, count: rows)
        for (number, line) in bytes.split(separator: UInt8(ascii: "\n")).enumerated() {
            let context = "line \(number + 1)"
            do throws(JSONError) {
                let entry = try JSONValue.parse(bytes: Array(line))
                guard try entry.member("row", in: context) != nil else { continue }
                let row = try entry.integer("row", in: context)
                guard names.indices.contains(row) else {
                    throw JSONError("\(context): row \(row) is not among the \(rows) rows of \(oneLine(embeddings))")
                }
                guard names[row] == nil else { throw JSONError("\(context): row \(row) is there twice") }
                names[row] = try name(entry, context)
            } catch {
                throw FileError(path: path, reason: error.description)
            }
        }
        if let missing = names.firstIndex(of: nil) {
            throw FileError(path: path, reason: "has no image for row \(missing)")
        }
        return names.compactMap { $0 }
    }

    /// The path of an entry: of its bytes, where it is not UTF-8.
    private static func name(_ entry: JSONValue, _ context: String) throws(JSONError) -> String {
        guard try entry.member("path_hex", in: context) != nil else { return try entry.string("path", in: context) }
        let digits = try entry.string("path_hex", in: context).utf8.map { digit in
            Character(Unicode.Scalar(digit)).hexDigitValue.map(UInt8.init)
        }
        let values = digits.compactMap { $0 }
        guard values.count == digits.count, values.count % 2 == 0 else {
            throw JSONError("\(context): 'path_hex' is not hexadecimal")
        }
        return PathBytes.string(stride(from: 0, to: values.count, by: 2).map { values[$0] << 4 | values[$0 + 1] })
    }
}
