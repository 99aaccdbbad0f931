import Foundation

/// A float32 array of a `.npy` file of format 1.0, read here so that a fault of the project's own reader cannot hide.
struct Embeddings {
    /// [rows, D] or [rows, N, D]
    let shape: [Int]
    let values: [Float]

    init(npy data: Data) throws {
        let bytes = [UInt8](data)
        guard bytes.count >= 10, bytes[0..<8].elementsEqual([0x93] + Array("NUMPY".utf8) + [1, 0]) else {
            throw CompatibilityError("no npy file of format 1.0")
        }
        let start = 10 + Int(bytes[8]) + Int(bytes[9]) << 8
        guard bytes.count >= start else { throw CompatibilityError("the npy header is cut off") }
        let header = String(decoding: bytes[10..<start], as: UTF8.self)
        guard header.contains("'descr': '<f4'"), header.contains("'fortran_order': False"),
              let open = header.firstIndex(of: "("), let close = header.firstIndex(of: ")"), open < close else {
            throw CompatibilityError("the npy header is '\(header)'")
        }
        let dimensions = header[header.index(after: open)..<close].split(separator: ",")
        shape = dimensions.compactMap { Int($0.trimmingCharacters(in: .whitespaces)) }
        guard !shape.isEmpty, bytes.count - start == 4 * shape.reduce(1, *) else {
            throw CompatibilityError("the npy file has \(bytes.count - start) bytes for the shape \(shape)")
        }
        values = bytes.withUnsafeBytes { raw in
            stride(from: start, to: bytes.count, by: 4).map { offset in
                Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
            }
        }
    }

    /// The least cosine between vectors (along the last axis) of two arrays.
    func leastCosine(with other: Embeddings) -> Double {
        let width = max(shape.last ?? 1, 1)
        let cosines = stride(from: 0, to: values.count, by: width).map { start in
            var (dot, a, b) = (0.0, 0.0, 0.0)
            for index in start..<start + width {
                let (x, y) = (Double(values[index]), Double(other.values[index]))
                dot += x * y
                a += x * x
                b += y * y
            }
            return dot / (a * b).squareRoot()
        }
        // `min` would pass over what is not a number.
        return cosines.first { $0.isNaN } ?? cosines.min() ?? 1
    }

    /// How far two arrays of one shape are apart, for people who ask which bits moved.
    func distance(from other: Embeddings) -> String {
        guard shape == other.shape else { return "the shapes are \(shape) and \(other.shape)" }
        let moved = zip(values, other.values).filter { $0.bitPattern != $1.bitPattern }
        let largest = moved.map { abs($0 - $1) }.max() ?? 0
        let counts = "\(moved.count) of \(values.count) values differ"
        return "\(counts), by at most \(largest); least cosine \(leastCosine(with: other))"
    }
}

/// How features of another instruction-set row are compared.
let leastCosine = 0.99999

/// What is wrong with features that a program wrote; nil: nothing.
///
/// - Parameters:
///   - found: a `.npy` file.
///   - expected: checksum of the file that this row must give; nil where the row was not recorded.
///   - reference: the `.npy` file of the row that the golden values were made on.
func fault(of found: Data, expected: String?, reference: Data) throws -> String? {
    let (a, b) = (try Embeddings(npy: found), try Embeddings(npy: reference))
    if let expected {
        let digest = checksum(found)
        if digest == expected { return nil }
        return "the file's checksum is \(digest), not \(expected); beside the reference row: \(a.distance(from: b))"
    }
    guard a.shape == b.shape, a.leastCosine(with: b) >= leastCosine else { return a.distance(from: b) }
    return nil
}

/// What is wrong with the losses of a run; nil: nothing.
///
/// - Parameters:
///   - found: as `losses(of:)` gives them.
///   - expected: those that this row must give; nil where the row was not recorded.
///   - reference: those of another row.
///   - tolerance: relative, between rows.
func fault(ofLosses found: String, expected: String?, reference: String, tolerance: Double) -> String? {
    if let expected { return found == expected ? nil : "the losses are \(found), not \(expected)" }
    let (a, b) = (numbers(found), numbers(reference))
    let agree = a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) <= tolerance * abs($1) }
    return agree ? nil : "the losses are \(found), elsewhere \(reference)"
}

private func numbers(_ text: String) -> [Double] { text.split(separator: " ").compactMap { Double($0) } }
