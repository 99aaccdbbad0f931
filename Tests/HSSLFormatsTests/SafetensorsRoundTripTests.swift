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
}
