import XCTest

@testable import HSSLFormats

final class IDXFileTests: XCTestCase {
    private func header(_ dimensions: [UInt32], type: UInt8 = 8) -> [UInt8] {
        [0, 0, type, UInt8(dimensions.count)] + dimensions.flatMap { value in
            (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }
        }
    }

    private func reason(_ bytes: [UInt8]) -> String {
        do { _ = try IDXFile(bytes: bytes, path: "t10k") } catch {
            XCTAssertTrue("\(error)".hasPrefix("t10k: "))
            return error.reason
        }
        return "accepted"
    }

    func testImagesAndLabels() throws {
        let images = try IDXFile(bytes: header([2, 2, 3]) + Array(0..<12), path: "a")
        XCTAssertEqual(images.dimensions, [2, 2, 3])
        XCTAssertEqual(images.count, 2)
        XCTAssertEqual(images.itemSize, 6)
        XCTAssertEqual(try images.item(1), Array(6..<12))
        let labels = try IDXFile(bytes: header([3]) + [7, 8, 9], path: "a")
        XCTAssertEqual(try labels.elements(), [7, 8, 9])
        XCTAssertEqual(labels.itemSize, 1)
        XCTAssertEqual(try IDXFile(bytes: header([0, 28, 28]), path: "a").count, 0)
    }

    func testHostile() {
        XCTAssertEqual(reason([]), "not an IDX file: 0 bytes are too few")
        XCTAssertEqual(reason([0x1f, 0x8b, 8, 0]), "not an IDX file: it is compressed with gzip")
        XCTAssertEqual(reason(Array("PNG!".utf8)), "not an IDX file: wrong magic number")
        XCTAssertEqual(
            reason(header([1], type: 0x0d) + [0]), "IDX element type 0xd is not supported, only unsigned bytes")
        XCTAssertEqual(reason(header([])), "an IDX file of 0 dimensions, expected 1 to 4")
        XCTAssertEqual(reason([0, 0, 8, 255]), "an IDX file of 255 dimensions, expected 1 to 4")
        XCTAssertEqual(reason([0, 0, 8, 3, 0, 0, 0, 1]), "truncated: the IDX header needs 16 bytes, the file has 8")
        XCTAssertEqual(reason(header([1, 0, 28])), "an IDX file with a dimension of 0: [1, 0, 28]")
        XCTAssertEqual(
            reason(header([.max, .max, .max])), "the IDX dimensions [4294967295, 4294967295, 4294967295] overflow")
        XCTAssertEqual(
            reason(header([0, .max, .max, .max])),
            "the IDX dimensions [0, 4294967295, 4294967295, 4294967295] overflow")
        XCTAssertEqual(
            reason(header([1 << 31, 2])),
            "truncated: IDX dimensions [2147483648, 2] need 4294967296 bytes of data, the file has 0")
        XCTAssertEqual(reason(header([2]) + [1]), "truncated: IDX dimensions [2] need 2 bytes of data, the file has 1")
        XCTAssertEqual(reason(header([2]) + [1, 2, 3]), "1 bytes after the IDX data")
    }

    func testTruncatedAtEveryByte() {
        let good = header([2, 2, 3]) + Array(0..<12)
        for count in 0..<good.count { XCTAssertNotEqual(reason(Array(good.prefix(count))), "accepted", "\(count)") }
    }
}

final class NPYArrayTests: XCTestCase {
    private func file(_ text: String, data: [Float] = [], version: UInt8 = 1) -> [UInt8] {
        let length = UInt32(text.utf8.count)
        let size = (0..<(version == 1 ? 2 : 4)).map { UInt8(truncatingIfNeeded: length >> (8 * UInt32($0))) }
        return [0x93] + Array("NUMPY".utf8) + [version, 0] + size + Array(text.utf8) + data.withUnsafeBytes(Array.init)
    }

    private func reason(_ bytes: [UInt8]) -> String {
        do { _ = try NPYArray(bytes: bytes, path: "a.npy") } catch { return error.reason }
        return "accepted"
    }

    func testAccepted() throws {
        for version in 1...3 as ClosedRange<UInt8> {
            let bytes = file(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  \n", data: [1, 2], version: version)
            XCTAssertEqual(try NPYArray(bytes: bytes, path: "a").values, [1, 2])
        }
        XCTAssertEqual(
            try NPYArray(bytes: file("{\"shape\":(),\"descr\":\"<f4\",\"fortran_order\":False}", data: [1]), path: "a")
            .shape,
            [])
        XCTAssertEqual(
            try NPYArray(bytes: file("{'shape':(2,),'descr':'<f4','fortran_order':False}", data: [1, 2]), path: "a")
            .shape,
            [2])
    }

    func testHostile() {
        func dictionary(descr: String = "'<f4'", order: String = "False", shape: String = "(1,)") -> String {
            "{'descr': \(descr), 'fortran_order': \(order), 'shape': \(shape)}"
        }
        XCTAssertEqual(reason([]), "not an npy file")
        XCTAssertEqual(reason(file(dictionary(), data: [1], version: 4)), "npy format 4.0 is not supported")
        XCTAssertEqual(reason([0x93] + Array("NUMPY".utf8) + [2, 0, 0xff, 0xff]), "truncated npy header")
        XCTAssertEqual(
            reason([0x93] + Array("NUMPY".utf8) + [2, 0, 0xff, 0xff, 0xff, 0xff]),
            "truncated: an npy header of 4294967295 bytes")
        XCTAssertEqual(
            reason(file(String(repeating: " ", count: 10_001))), "an npy header of 10001 bytes, more than 10000")
        XCTAssertEqual(reason(file(dictionary(descr: "'|O'"))), "npy dtype '|O' is not supported, only '<f4'")
        XCTAssertEqual(reason(file(dictionary(order: "True"))), "an npy array in Fortran order is not supported")
        XCTAssertEqual(reason(file(dictionary())), "the npy shape [1] needs 4 bytes of data, the file has 0")
        XCTAssertEqual(
            reason(file(dictionary(), data: [1, 2])), "the npy shape [1] needs 4 bytes of data, the file has 8")
        XCTAssertEqual(
            reason(file(dictionary(shape: "(9223372036854775807,)"))), "the npy shape [9223372036854775807] overflows")
        XCTAssertEqual(
            reason(file(dictionary(shape: "(0, 4294967296, 4294967296)"))),
            "the npy shape [0, 4294967296, 4294967296] overflows")
        for text in [
            "", "{", "{}", "[]", dictionary(shape: "(-1,)"), dictionary(shape: "(1.0,)"), dictionary(shape: "(1)"),
            dictionary(shape: "1"),
            dictionary(shape: "(99999999999999999999,)"), dictionary(shape: "(,)"), dictionary() + "x",
            dictionary(descr: "'<f4"),
            dictionary(descr: "[('a', '<f4')]"), "{'descr': '<f4', 'descr': '<f4', 'shape': ()}", "{'a': 1}",
            dictionary(order: "false"),
            dictionary(shape: "(" + String(repeating: "1,", count: 100) + ")"),
            dictionary(shape: String(repeating: "(", count: 5000)),
        ] {
            XCTAssertEqual(reason(file(text, data: [1])), "malformed npy header", text)
        }
    }

    func testTruncatedAtEveryByte() {
        let good = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n", data: [1, 2])
        XCTAssertEqual(reason(good), "accepted")
        for count in 0..<good.count { XCTAssertNotEqual(reason(Array(good.prefix(count))), "accepted", "\(count)") }
    }
}
