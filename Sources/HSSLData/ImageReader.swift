import HSSLFormats
import Synchronization

/// Decodes image files for many threads within one amount of memory: ``DecodeLimits/bytes`` is what all images that are
/// decoded at the same time take together.
final class ImageReader: Sendable {
    private let given: Mutex<DecodeLimits>
    private let budget: DecodeBudget
    private let repaired: Mutex<[UInt64]>

    /// - Parameter count: images there are; they are numbered from 0.
    init(limits: DecodeLimits, count: Int) {
        given = Mutex(limits)
        budget = DecodeBudget(bytes: limits.bytes)
        repaired = Mutex(Array(repeating: 0, count: (count + 63) / 64))
    }

    var limits: DecodeLimits { given.withLock { $0 } }

    /// Other memory, from now on, and the flag that decides about it.
    func limit(toBytes bytes: Int, name: String) {
        given.withLock { limits in
            limits.bytes = bytes
            limits.name = name
        }
        budget.resize(to: bytes)
    }

    /// How many images were whole but for their end marker.
    var repairedCount: Int { repaired.withLock { $0.reduce(0) { $0 + $1.nonzeroBitCount } } }

    /// Decodes image `index`, the file at `path`; the image's memory counts as taken until `body` returns.
    ///
    /// - Parameters:
    ///   - background: what is seen where the image is transparent.
    ///   - workspace: bytes that `body` takes for an image of so many pixels a row and a column.
    /// - Throws: ``DataError``, and what `body` throws.
    func withImage<Result>(
        _ index: Int, path: String, background: RGBColor, workspace: (_ width: Int, _ height: Int) -> Int,
        _ body: (RGBImage) throws -> Result
    ) throws -> Result {
        var held = try fileSize(path)
        budget.take(held)
        defer { budget.give(held) }
        let image = try decode(index, path: path, background, workspace: workspace, held: &held)
        // The file and the decoder's own are gone.
        let kept = min(held, image.pixels.count + workspace(image.width, image.height))
        budget.give(held - kept)
        held = kept
        return try body(image)
    }

    /// Memory that image `index` takes, from its header; nil where it cannot be read.
    func bytesNeeded(path: String, workspace: (_ width: Int, _ height: Int) -> Int) -> Int? {
        guard let size = try? fileSize(path) else { return nil }
        budget.take(size)
        defer { budget.give(size) }
        var unlimited = limits
        unlimited.bytes = .max
        guard let data = try? readFile(at: path, limit: limits.bytes),
              let header = try? ImageHeader(data, name: path, limits: unlimited) else { return nil }
        return data.count + header.decodeBytes + workspace(header.width, header.height)
    }

    private func fileSize(_ path: String) throws(DataError) -> Int {
        let size: Int
        do { size = try ReadableFile(path: path).size } catch { throw DataError(.unreadable, error) }
        guard size <= limits.bytes else {
            throw DataError(
                .tooLarge, path: path,
                reason: "has \(size) bytes, more than the limit of \(limits.bytes) (\(limits.name))")
        }
        return size
    }

    /// Reads the file under `held` bytes of the budget, and takes what its header says in addition.
    private func decode(
        _ index: Int, path: String, _ background: RGBColor, workspace: (Int, Int) -> Int, held: inout Int
    ) throws -> RGBImage {
        while true {
            let data: [UInt8]
            do { data = try readFile(at: path, limit: limits.bytes) } catch { throw DataError(.unreadable, error) }
            let header = try ImageHeader(data, name: path, limits: limits)
            let needed = data.count + header.decodeBytes + workspace(header.width, header.height)
            let most = limits.bytes
            guard needed <= most else {
                throw DataError(
                    .tooLarge, path: path,
                    reason:
                        "decoding \(header.width) x \(header.height) pixels needs \(needed) bytes, more than the "
                        + "limit of \(most) (\(limits.name))"
                )
            }
            if needed <= held || budget.extend(by: needed - held) {
                held = max(held, needed)
                let (image, isRepaired) = try header.decode(
                    data, name: path, limits: limits, background: background)
                if isRepaired { repaired.withLock { $0[index / 64] |= 1 << UInt64(index % 64) } }
                return image
            }
            // Without the file in hand: its bytes come again once there is room for all.
            budget.give(held)
            held = needed
            budget.take(held)
        }
    }
}
