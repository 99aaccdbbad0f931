import Foundation
import XCTest

@testable import HSSLData

/// What tools/make_image_fixtures.py wrote: source images and Pillow's results.
struct Fixtures {
    struct Expectation: Decodable {
        let file: String?
        let source: String?
        let box: [Float]?
        let resize: Int?
        let crop: Int?
        let operation: String?
        let value: Float?
        /// Whether the file lacks its end marker.
        let repaired: Bool?
        let expected: String
        let width: Int
        let height: Int
    }

    struct Manifest: Decodable {
        let decode: [Expectation]
        let resize: [Expectation]
        let preprocess: [Expectation]
        let adjust: [Expectation]
    }

    let folder: String
    let manifest: Manifest

    init() throws {
        folder = try XCTUnwrap(Bundle.module.resourcePath) + "/Fixtures"
        manifest = try JSONDecoder().decode(
            Manifest.self, from: Data(contentsOf: URL(fileURLWithPath: folder + "/manifest.json")))
    }

    func path(_ name: String?) throws -> String { folder + "/" + (try XCTUnwrap(name)) }

    func bytes(_ name: String?) throws -> [UInt8] { try [UInt8](Data(contentsOf: URL(fileURLWithPath: path(name)))) }

    func image(_ name: String?) throws -> RGBImage { try ImageDecoder.decode(path: path(name)) }

    func expected(_ item: Expectation) throws -> RGBImage {
        RGBImage(width: item.width, height: item.height, pixels: try bytes(item.expected))
    }
}

extension RGBImage {
    /// Largest difference of a sample; nil when the sizes differ.
    func distance(to other: RGBImage) -> Int? {
        guard width == other.width, height == other.height else { return nil }
        return zip(pixels, other.pixels).map { abs(Int($0) - Int($1)) }.max()
    }
}

/// The error that `body` throws, if it is a `DataError`.
func dataError(_ body: () throws -> Void) -> DataError? {
    do {
        try body()
        return nil
    } catch { return error as? DataError }
}
