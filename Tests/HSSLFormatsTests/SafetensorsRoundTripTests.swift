import Foundation
import XCTest

@testable import HSSLFormats

final class SafetensorsRoundTripTests: XCTestCase {
    func testWhatIsWrittenIsRead() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/a.safetensors"
            try SafetensorsWriter.write(
                path: path,
                tensors: [
                    SafetensorsTensor(name: "b", shape: [2, 3], values: [1, 2, 3, 4, 5, 6.5] as [Float]),
                    SafetensorsTensor(name: "codes", shape: [3], values: [-127, 0, 127] as [Int8]),
                    SafetensorsTensor(name: "a \"é\n", shape: [], values: [-1] as [Float]),
                    SafetensorsTensor(name: "half", shape: [4], float16: [0x3C00, 0x0001, 0xC000, 0x7BFF]),
                    SafetensorsTensor(name: "step", shape: [1], values: [1 << 40] as [Int64]),
                    SafetensorsTensor(name: "empty", shape: [0, 5], values: [] as [Float]),
                ], metadata: ["format": "pt", "note": "ü\u{0}\u{1F600}"])
            let file = try SafetensorsFile(path: path)
            XCTAssertEqual(file.names, ["step", "a \"é\n", "b", "empty", "half", "codes"])
            XCTAssertEqual(try file.floats("b", shape: [2, 3]), [1, 2, 3, 4, 5, 6.5])
            XCTAssertEqual(try file.tensor("a \"é\n").shape, [])
            XCTAssertEqual(try file.values("codes", as: Int8.self), [-127, 0, 127])
            XCTAssertEqual(try file.floats("half"), [1, 0x1p-24, -2, 65504])
            XCTAssertEqual(try file.values("step", as: Int64.self), [1 << 40])
            XCTAssertEqual(try file.tensor("empty").shape, [0, 5])
            XCTAssertEqual(file.metadata["note"], "ü\u{0}\u{1F600}")
            XCTAssertEqual(file.metadata["hssl.crc32c"]?.count, 8)
            XCTAssertEqual(file.byteCounts.header % 8, 0)
        }
    }

    /// The memory bound of a model counts one tensor of its file at a time.
    func testWhatWasReadIsNotHeld() throws {
        try withTemporaryFolder { folder in
            let path = folder + "/held.safetensors", count = 1 << 20
            let tensors = (0..<4).map { index in
                SafetensorsTensor(
                    name: "\(index)", shape: [count], values: [Float](repeating: Float(index), count: count))
            }
            try SafetensorsWriter.write(path: path, tensors: tensors)
            let file = try SafetensorsFile(path: path)
            let tensor = try file.tensor("0"), before = try mappedResidentBytes()
            XCTAssertEqual(tensor.withBytes { $0.reduce(0) { $0 + Int($1) } }, 0)
            XCTAssertGreaterThanOrEqual(try mappedResidentBytes() - before, 4 * count)
            tensor.dropResident()
            for index in 1..<4 { XCTAssertEqual(try file.floats("\(index)").last, Float(index)) }
            XCTAssertLessThan(try mappedResidentBytes() - before, 2 << 20)  // of 16 MB
            XCTAssertEqual(tensor.withBytes { $0.count }, 4 * count)
        }
    }

    /// Of this process's mapped files.
    private func mappedResidentBytes() throws -> Int {
        let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try XCTUnwrap(status.split(separator: "\n").first { $0.hasPrefix("RssFile:") })
        return try XCTUnwrap(Int(line.filter(\.isNumber))) << 10
    }
}
