import ArgumentParser
import CSupport
import HSSLCommandLine
import HSSLFormats

/// `--memory-limit` of commands that hold what is known of many images at once.
struct MemoryOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            "Most memory to use, e.g. 300M: kept, or refused with the figure that is needed.", valueName: "size"))
    var memoryLimit: ByteSize?

    /// Stacks, and what the heap keeps between its pieces.
    private static let unseenBytes = 8 << 20
    /// Enough for the small images of usual data sets; what needs more is refused image by image.
    private static let leastDecodeBytes = 1 << 20

    /// What may be inflated into memory beside everything else.
    var inflatedBytes: Int { memoryLimit.map { max(0, ($0.bytes - Int(hssl_peak_rss())) / 2) } ?? .max }

    /// Refuses a limit below what the process takes now and `bytes` more.
    ///
    /// - Parameter what: needs them, for the message.
    /// - Returns: what is left; nil without a limit.
    @discardableResult
    func require(_ bytes: @autoclosure () throws -> Int, for what: @autoclosure () -> String) throws -> Int? {
        guard let limit = memoryLimit?.bytes else { return nil }
        hssl_return_freed_memory()
        // What was taken and given back is there again.
        let present = Int(hssl_present_rss()) + Self.unseenBytes
        let needed = try max(Int(hssl_peak_rss()), present + bytes())
        guard needed <= limit else {
            throw CommandError("--memory-limit \(limit) is too small: \(what()) need \(needed) bytes")
        }
        return limit - needed
    }

    /// Before an embeddings file is opened: it is mapped and copied, and every name of its index is kept.
    func require(embeddings path: String) throws {
        guard memoryLimit != nil else { return }
        let rows = try ReadableFile(path: path).size, index = try ReadableFile(path: path + ".index.jsonl").size
        try require(2 * rows + 6 * index, for: "the embeddings of \(path)")
    }

    /// Refuses a limit below what the sets and `bytes` more take, and leaves the rest to decoding.
    func plan(
        _ sets: [LabelledImages], _ shared: SharedOptions, holding bytes: @autoclosure () -> Int,
        for what: @autoclosure () -> String
    ) throws {
        guard memoryLimit != nil else { return }
        let labels = 24 * sets.reduce(0) { $0 + $1.count }
        let images = try sets.map { try $0.bytesInFlight() }.max() ?? 0
        let decoding = sets.contains { $0.limitDecoding != nil } ? Self.leastDecodeBytes : 0
        let left = try require(bytes() + labels + images + shared.threadCount << 20 + decoding, for: what())
        for set in sets { set.limitDecoding?((left ?? 0) + decoding) }
    }
}
