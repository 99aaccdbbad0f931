/// An array from a `.npy` file: little-endian float32 in C order (formats 1.0 to 3.0), what `NPYWriter` and
/// `numpy.save` write.
package struct NPYArray: Equatable, Sendable {
    package let shape: [Int]
    package let values: [Float]

    /// - Throws: `FileError` for anything else than a whole file of such an array.
    package init(path: String) throws(FileError) {
        self = try MappedFile(path: path).withBytes { (bytes) throws(FileError) in
            try NPYArray(bytes: bytes, path: path)
        }
    }

    /// - Parameter path: what errors name.
    /// - Throws: `FileError` for anything else than a whole file of such an array.
    package init(bytes: [UInt8], path: String) throws(FileError) {
        var result: Result<NPYArray, FileError>?
        bytes.withUnsafeBytes { bytes in
            do throws(FileError) {
                result = .success(try NPYArray(bytes: bytes, path: path))
            } catch {
                result = .failure(error)
            }
        }
        guard let result else { throw FileError(path: path, reason: "not an npy file") }
        self = try result.get()
    }

    private init(bytes: UnsafeRawBufferPointer, path: String) throws(FileError) {
        func refuse(_ reason: String) -> FileError { FileError(path: path, reason: reason) }
        guard bytes.count >= 10, bytes[0] == 0x93, bytes[1..<6].elementsEqual("NUMPY".utf8) else {
            throw refuse("not an npy file")
        }
        guard (1...3).contains(bytes[6]), bytes[7] == 0 else {
            throw refuse("npy format \(bytes[6]).\(bytes[7]) is not supported")
        }
        let lengthSize = bytes[6] == 1 ? 2 : 4
        let textStart = 8 + lengthSize
        guard bytes.count >= textStart else { throw refuse("truncated npy header") }
        let length = bytes[8..<textStart].reversed().reduce(0) { $0 << 8 | Int($1) }
        guard length <= bytes.count - textStart else { throw refuse("truncated: an npy header of \(length) bytes") }
        // numpy's own limit against hostile headers.
        guard length <= 10_000 else { throw refuse("an npy header of \(length) bytes, more than 10000") }
        let dataStart = textStart + length

        var parser = PythonDictionaryParser(text: Array(bytes[textStart..<dataStart])[...])
        guard let header = parser.parse() else { throw refuse("malformed npy header") }
        guard header.descr == "<f4" else {
            throw refuse("npy dtype '\(oneLine(header.descr))' is not supported, only '<f4'")
        }
        guard !header.fortranOrder else { throw refuse("an npy array in Fortran order is not supported") }
        var product: Int? = MemoryLayout<Float>.size
        for dimension in header.shape where dimension > 0 {
            guard let value = product else { break }
            let (next, overflow) = value.multipliedReportingOverflow(by: dimension)
            product = overflow ? nil : next
        }
        guard let product else { throw refuse("the npy shape \(header.shape) overflows") }
        let expected = header.shape.contains(0) ? 0 : product
        let found = bytes.count - dataStart
        guard found == expected else {
            throw refuse("the npy shape \(header.shape) needs \(expected) bytes of data, the file has \(found)")
        }
        shape = header.shape
        values = [Float](unsafeUninitializedCapacity: expected / 4) { buffer, count in
            UnsafeMutableRawBufferPointer(buffer).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: bytes[dataStart..<(dataStart + expected)]))
            count = expected / 4
        }
    }
}

/// The one Python dictionary that an npy header is: keys 'descr', 'fortran_order' and 'shape', each once, in any order.
private struct PythonDictionaryParser {
    var text: ArraySlice<UInt8>

    init(text: ArraySlice<UInt8>) { self.text = text }

    mutating func parse() -> (descr: String, fortranOrder: Bool, shape: [Int])? {
        var descr: String?
        var fortranOrder: Bool?
        var shape: [Int]?
        guard take("{") else { return nil }
        while !take("}") {
            guard let key = string(), take(":") else { return nil }
            switch key {
            case "descr" where descr == nil:
                guard let value = string() else { return nil }
                descr = value
            case "fortran_order" where fortranOrder == nil:
                if take("True") { fortranOrder = true } else if take("False") { fortranOrder = false } else {
                    return nil
                }
            case "shape" where shape == nil:
                guard let value = tuple() else { return nil }
                shape = value
            default: return nil
            }
            if !take(",") {
                guard take("}") else { return nil }
                break
            }
        }
        skipSpace()
        guard text.isEmpty, let descr, let fortranOrder, let shape else { return nil }
        return (descr, fortranOrder, shape)
    }

    private mutating func skipSpace() {
        text = text.drop { $0 == 0x20 || $0 == UInt8(ascii: "\n") }
    }

    private mutating func take(_ word: String) -> Bool {
        skipSpace()
        guard text.starts(with: word.utf8) else { return false }
        text = text.dropFirst(word.utf8.count)
        return true
    }

    private mutating func string() -> String? {
        skipSpace()
        guard let quote = text.first, quote == UInt8(ascii: "'") || quote == UInt8(ascii: "\"") else { return nil }
        let content = text.dropFirst().prefix { $0 != quote && $0 != UInt8(ascii: "\\") && $0 >= 0x20 && $0 < 0x7f }
        guard text.endIndex > content.endIndex, text[content.endIndex] == quote else { return nil }
        text = text[(content.endIndex + 1)...]
        return String(decoding: content, as: UTF8.self)
    }

    private mutating func tuple() -> [Int]? {
        guard take("(") else { return nil }
        var result: [Int] = []
        while !take(")") {
            skipSpace()
            let digits = text.prefix { $0 &- 0x30 < 10 }
            guard !digits.isEmpty, let value = Int(String(decoding: digits, as: UTF8.self)), result.count < 64 else {
                return nil
            }
            text = text.dropFirst(digits.count)
            result.append(value)
            if take(",") { continue }
            // "(3)" is a number in Python, not a tuple.
            guard result.count > 1, take(")") else { return nil }
            break
        }
        return result
    }
}
