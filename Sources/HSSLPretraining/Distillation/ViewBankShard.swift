import CSupport
import HSSLFormats

/// A shard of a bank, opened and found whole: what a teacher says of every draw of some images that follow one another.
///
/// | tensor | | |
/// |---|---|---|
/// | `globals` | I8 `[images, draws, width]` | codes in ±127, value = code · scale |
/// | `globals_scale` | F32 `[images, draws]` | |
/// | `cells` | I8 `[images, draws, cells, rank]` | only where the bank keeps cells |
/// | `cells_scale` | F32 `[images, draws]` | |
/// | `present` | U8 `[images]` | 0: the image could not be read; its codes are 0 |
final class ViewBankShard: Sendable {
    /// Metadata: of what bank it is (a checksum over teacher, data, recipe and sizes), which shard, and why images are
    /// absent.
    static let bankKey = "hssl.bank", shardKey = "hssl.bank_shard", absentKey = "hssl.bank_absent"

    private let layout: ViewBankLayout
    private let images: Range<Int>
    private let globals, cells: TensorView?
    private let globalScales, cellScales: [Float]
    /// Images without answers, by their place in the data set.
    let absent: [Int: String]

    /// Opens shard `number` of the bank in `folder`, reading all of it once for its checksum.
    ///
    /// - Throws: `SafetensorsError` or `FileError`, naming the file: missing, damaged, another bank's.
    init(_ number: Int, folder: String, bank: ViewBankIdentity) throws {
        layout = bank.layout
        images = layout.images(ofShard: number)
        let file = try SafetensorsFile(path: folder + "/" + ViewBankLayout.fileName(ofShard: number))
        try Self.checkOwner(file, bank)
        func refuse(_ reason: String) -> FileError { FileError(path: file.path, reason: reason) }
        guard file.metadata[Self.shardKey] == "\(number)" else {
            throw refuse("is shard \(oneLine(file.metadata[Self.shardKey] ?? "none")) of its bank under another name")
        }
        let (draws, count) = (layout.draws, images.count)
        func codes(_ name: String, _ shape: [Int]) throws -> TensorView {
            let tensor = try file.tensor(name)
            guard tensor.dtype == .int8, tensor.shape == shape else {
                throw refuse("tensor '\(name)' is \(tensor.dtype) \(tensor.shape), expected I8 \(shape)")
            }
            return tensor
        }
        func scales(_ name: String) throws -> [Float] { try file.floats(name, shape: [count, draws]) }
        globals = try codes("globals", [count, draws, layout.width])
        globalScales = try scales("globals_scale")
        let hasCells = layout.rank > 0
        cells = hasCells ? try codes("cells", [count, draws, layout.grid.count, layout.rank]) : nil
        cellScales = hasCells ? try scales("cells_scale") : []
        let expected = hasCells ? 5 : 3
        guard file.count == expected else { throw refuse("has \(file.count) tensors, expected \(expected)") }
        absent = try Self.absences(file, try file.values("present", as: UInt8.self, shape: [count]), images)
    }

    /// Refuses a file of another bank.
    static func checkOwner(_ file: SafetensorsFile, _ bank: ViewBankIdentity) throws {
        guard file.metadata[bankKey] == bank.checksum else {
            throw FileError(
                path: file.path,
                reason:
                    "belongs to a bank of another teacher, data set or recipe than the \(ViewBank.fileName) beside it"
            )
        }
    }

    private static func absences(
        _ file: SafetensorsFile, _ present: [UInt8], _ images: Range<Int>
    ) throws -> [Int: String] {
        var result: [Int: String] = [:]
        do {
            guard case .object(let reasons) = try JSONValue.parse(file.metadata[absentKey] ?? "") else {
                throw PretrainingError("no object")
            }
            for (place, image) in images.enumerated() where present[place] != 1 {
                result[image] = reasons["\(image)"]?.asString
            }
            guard result.count == reasons.count, result.count == present.count(where: { $0 == 0 }) else {
                throw PretrainingError("it contradicts the tensor 'present'")
            }
        } catch {
            throw FileError(path: file.path, reason: "\(absentKey): \(error)")
        }
        return result
    }

    // MARK: Reading

    /// Appends the global feature of a view: [width].
    func appendGlobal(image: Int, draw: Int, to output: inout [Float]) {
        append(globals, globalScales, layout.width, image, draw, &output)
    }

    /// Appends its cells: [cells, rank].
    func appendCells(image: Int, draw: Int, to output: inout [Float]) {
        append(cells, cellScales, layout.cellCodes, image, draw, &output)
    }

    private func append(
        _ codes: TensorView?, _ scales: [Float], _ count: Int, _ image: Int, _ draw: Int, _ output: inout [Float]
    ) {
        let row = (image - images.lowerBound) * layout.draws + draw, first = output.count
        output += repeatElement(0, count: count)
        codes?.withBytes { bytes in
            output.withUnsafeMutableBufferPointer { output in
                guard let start = bytes.assumingMemoryBound(to: Int8.self).baseAddress,
                      let values = output.baseAddress else { return }
                var scale = scales[row]
                hssl_dequantize_rows_s8(1, count, start + row * count, count, &scale, values + first, count)
            }
        }
    }

    /// Gives back the memory of what was read.
    func dropResident() { globals?.dropResident() }
}

/// A shard on its way.
struct ViewBankShardBuffer {
    let number: Int
    let images: Range<Int>
    private let layout: ViewBankLayout
    private var globals, cells: [Int8]
    private var globalScales, cellScales: [Float]
    private var reasons: [Int: String] = [:]

    init(_ number: Int, layout: ViewBankLayout) {
        (self.number, self.layout) = (number, layout)
        images = layout.images(ofShard: number)
        let views = images.count * layout.draws
        globals = [Int8](repeating: 0, count: views * layout.width)
        cells = [Int8](repeating: 0, count: views * layout.cellCodes)
        globalScales = [Float](repeating: 0, count: views)
        cellScales = globalScales
    }

    /// Bytes of a buffer for `images` images.
    static func bytes(_ layout: ViewBankLayout, images: Int) -> Int { images * layout.draws * (layout.viewBytes + 8) }

    /// Takes answers about draws of an image that follow one another; `cells` are coordinates.
    ///
    /// - Parameters:
    ///   - global: [draws, width].
    ///   - cells: [draws, cells, rank]; empty where the bank keeps none.
    mutating func take(
        image: Int, firstDraw: Int, draws: Int, global: ArraySlice<Float>, cells values: ArraySlice<Float>
    ) {
        guard reasons[image] == nil else { return }
        let view = (image - images.lowerBound) * layout.draws + firstDraw
        Self.quantize(global, draws, layout.width, view, &globals, &globalScales)
        if layout.rank > 0 { Self.quantize(values, draws, layout.cellCodes, view, &cells, &cellScales) }
    }

    /// Codes of `rows` rows of `count` values, beginning with row `first`.
    private static func quantize(
        _ values: ArraySlice<Float>, _ rows: Int, _ count: Int, _ first: Int, _ codes: inout [Int8],
        _ scales: inout [Float]
    ) {
        values.withUnsafeBufferPointer { values in
            codes.withUnsafeMutableBufferPointer { codes in
                scales.withUnsafeMutableBufferPointer { scales in
                    guard let source = values.baseAddress, let codes = codes.baseAddress,
                          let scales = scales.baseAddress else { return }
                    hssl_quantize_rows_s8(rows, count, source, count, codes + first * count, count, scales + first)
                }
            }
        }
    }

    /// An image without answers.
    mutating func leaveOut(image: Int, reason: String) {
        // Draws before the one that failed do not stay.
        let views = (image - images.lowerBound) * layout.draws..<(image - images.lowerBound + 1) * layout.draws
        for view in views { (globalScales[view], cellScales[view]) = (0, 0) }
        for index in views.lowerBound * layout.width..<views.upperBound * layout.width { globals[index] = 0 }
        for index in views.lowerBound * layout.cellCodes..<views.upperBound * layout.cellCodes { cells[index] = 0 }
        if reasons[image] == nil { reasons[image] = oneLine(reason, limit: 500) }
    }

    var absent: Int { reasons.count }

    /// Whole under its name, or not at all.
    func write(to folder: String, bank: ViewBankIdentity, calls: SystemCalls) throws {
        let (draws, count) = (layout.draws, images.count)
        let present = images.map { reasons[$0] == nil ? UInt8(1) : 0 }
        var absent = JSONObject()
        for (image, reason) in reasons.sorted(by: { $0.key < $1.key }) { absent["\(image)"] = .string(reason) }
        var tensors = [
            SafetensorsTensor(name: "globals", shape: [count, draws, layout.width], values: globals),
            SafetensorsTensor(name: "globals_scale", shape: [count, draws], values: globalScales),
            SafetensorsTensor(name: "present", shape: [count], values: present),
        ]
        if layout.rank > 0 {
            tensors += [
                SafetensorsTensor(name: "cells", shape: [count, draws, layout.grid.count, layout.rank], values: cells),
                SafetensorsTensor(name: "cells_scale", shape: [count, draws], values: cellScales),
            ]
        }
        try SafetensorsWriter.write(
            path: folder + "/" + ViewBankLayout.fileName(ofShard: number), tensors: tensors,
            metadata: [
                ViewBankShard.bankKey: bank.checksum, ViewBankShard.shardKey: "\(number)",
                ViewBankShard.absentKey: JSONValue.object(absent).text(),
            ], calls: calls)
    }
}
