import ArgumentParser
import HSSLCommandLine
import HSSLFormats
import HSSLPretraining

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what a safetensors file or a view bank holds.",
        discussion: """
            Tensors with types, shapes and sizes, then the metadata (architecture, preprocessing, provenance). Works \
            on any safetensors file. \
            Of a view bank: teacher, data, views, and whether it is whole.

            Examples:
              hssl inspect base-int8.safetensors
              hssl inspect banks/photos
              hssl inspect runs/first/checkpoint.safetensors --json - | jq .metadata
            """)

    @Argument(help: ArgumentHelp("safetensors file, or the folder of a view bank.", valueName: "file"))
    var file: String

    @Option(
        name: .long,
        help: ArgumentHelp("Write one JSON document to a file, or - for standard output.", valueName: "file"))
    var json: String?

    @OptionGroup var shared: SharedOptions

    func run() throws {
        shared.apply()
        let target = try json.map { try JSONTarget($0, reading: [file]) }
        if ViewBank.isBank(file) {
            let bank = try BankReport(file)
            return try JSONTarget.report(bank.lines, bank.json.text(), to: target)
        }
        let contents = try SafetensorsFile(path: file, headerLimit: SafetensorsFile.foreignHeaderLimit)
        let rows = contents.tensors.map { tensor in
            Row(name: tensor.name, dtype: tensor.dtype.rawValue, shape: tensor.shape, bytes: tensor.bytes.count)
        }
        let total = rows.reduce(0) { $0 + $1.bytes }
        let elements = rows.reduce(0) { $0 + $1.shape.reduce(1, *) }
        let lines =
            [
                Self.table(rows),
                "\(rows.count) tensors, \(elements) values, \(total) bytes of data, "
                + "\(contents.byteCounts.header) of header",
            ]
            + contents.metadata.keys.sorted().map { key in
                "\(oneLine(key)): \(oneLine(contents.metadata[key] ?? "", limit: 2_000))"
            }
        try JSONTarget.report(lines, document(contents, rows).text(), to: target)
    }

    private struct Row {
        let name: String
        let dtype: String
        let shape: [Int]
        let bytes: Int
    }

    private static func table(_ rows: [Row]) -> String {
        let cells =
            [["name", "type", "shape", "bytes"]]
            + rows.map {
                [
                    oneLine($0.name, limit: 200), $0.dtype, $0.shape.map(String.init).joined(separator: "×"),
                    "\($0.bytes)",
                ]
            }
        let widths = (0..<4).map { column in cells.map { $0[column].count }.max() ?? 0 }
        return cells.map { row in
            zip(row, widths).enumerated().map { index, cell in
                let padding = String(repeating: " ", count: cell.1 - cell.0.count)
                return index == 3 ? padding + cell.0 : cell.0 + padding
            }.joined(separator: "  ")
        }.joined(separator: "\n")
    }

    /// Structured metadata (a JSON object in a string) is shown as the object it is.
    private func document(_ contents: SafetensorsFile, _ rows: [Row]) -> JSONValue {
        let tensors = rows.map { row -> JSONValue in
            [
                "name": .string(row.name), "dtype": .string(row.dtype),
                "shape": .array(row.shape.map { .integer($0) }), "bytes": .integer(row.bytes),
            ]
        }
        var metadata = JSONObject()
        for (key, value) in contents.metadata.sorted(by: { $0.key < $1.key }) {
            let parsed = value.hasPrefix("{") ? try? JSONValue.parse(value) : nil
            metadata[key] = parsed ?? .string(value)
        }
        return ["file": .string(contents.path), "tensors": .array(tensors), "metadata": .object(metadata)]
    }
}
