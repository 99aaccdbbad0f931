import HSSLData
import HSSLFormats
import HSSLRuntime

/// Vectors of the images of a data set, and which images could be read.
public struct DatasetFeatures: Sendable {
    /// [indices.count, dimension], row-major.
    public let values: [Float]
    /// Numbers of an image.
    public let dimension: Int
    /// Places in the data set, in the order asked for.
    public let indices: [Int]
    /// Images that are left out: place in the data set, and why in one line.
    public let unreadable: [(index: Int, reason: String)]

    /// Images that are decoded and prepared together by one thread.
    private static let chunk = 16

    /// Features of a model.
    ///
    /// - Parameters:
    ///   - dataset: read while the model runs, image by image.
    ///   - indices: which images, in which order; nil: all.
    ///   - session: runs the model; of this thread alone.
    ///   - preprocessing: how images are prepared; its crop is the model's image size.
    ///   - features: which ones; those with a vector a cell (N vectors of D) are taken as one row of N·D.
    ///   - loaderThreads: decode and prepare while the model runs.
    /// - Throws: what `Session.extract` throws. An image that cannot be read is no error but listed in ``unreadable``.
    public init(
        _ dataset: Dataset, indices: [Int]? = nil, session: Session, preprocessing: Preprocessing,
        features: Features = .cls, loaderThreads: Int = 2
    ) throws {
        try self.init(count: indices?.count ?? dataset.count, dimension: session.model.rowCount(features)) { body in
            try Self.stream(
                dataset, indices: indices, session: session, preprocessing: preprocessing, features: features,
                loaderThreads: loaderThreads, body)
        }
    }

    /// Gathers what a stream gives.
    ///
    /// - Parameters:
    ///   - count: images to expect; another number only costs time.
    ///   - dimension: numbers of an image.
    ///   - stream: calls `body` with rows [images, dimension] and their places in the data set as often as it likes,
    ///     and returns what could not be read.
    /// - Throws: what `stream` throws.
    public init(
        count: Int, dimension: Int,
        stream: (_ body: (ArraySlice<Float>, [Int]) throws -> Void) throws -> [(index: Int, reason: String)]
    ) throws {
        var values: [Float] = [], kept: [Int] = []
        values.reserveCapacity(count * dimension)
        unreadable = try stream {
            values += $0
            kept += $1
        }
        (self.values, self.dimension, indices) = (values, dimension, kept)
    }

    /// Features of a model, some images at a time.
    ///
    /// - Parameters:
    ///   - indices: which images, in which order; nil: all.
    ///   - loaderThreads: decode and prepare while the model runs.
    ///   - body: gets [images, dimension] and their places in the data set, in the order asked for.
    /// - Returns: place in the data set and reason, in one line, of each image that could not be read.
    /// - Throws: `RuntimeError` for images of another size than the model's; what `Session.extract` and `body` throw.
    public static func stream(
        _ dataset: Dataset, indices: [Int]? = nil, session: Session, preprocessing: Preprocessing,
        features: Features = .cls, loaderThreads: Int = 2, _ body: (ArraySlice<Float>, [Int]) throws -> Void
    ) throws -> [(index: Int, reason: String)] {
        guard preprocessing.count == session.model.imageCount else {
            throw RuntimeError(
                "images are prepared with \(preprocessing.count) values, the model takes \(session.model.imageCount)")
        }
        return try stream(
            dataset, indices, preprocessing, session.model.rowCount(features), loaderThreads, body
        ) { pixels, count, output in
            try session.extract(images: pixels, count: count, features: features, into: &output)
        }
    }

    /// The prepared pixels themselves, as the baseline that features must beat.
    ///
    /// - Parameters:
    ///   - indices: which images, in which order; nil: all.
    ///   - channels: 3, or 1 for the first alone, which says everything of grey images.
    ///   - loaderThreads: decode and prepare.
    ///   - body: gets [images, channels·crop·crop], planes in the order red, green, blue, and their places in the data
    ///     set, in the order asked for.
    /// - Returns: place in the data set and reason, in one line, of each image that could not be read.
    /// - Throws: what `body` throws.
    public static func streamPixels(
        of dataset: Dataset, indices: [Int]? = nil, preprocessing: Preprocessing, channels: Int = 3,
        loaderThreads: Int = 2, _ body: (ArraySlice<Float>, [Int]) throws -> Void
    ) throws -> [(index: Int, reason: String)] {
        let width = preprocessing.count / 3 * channels
        return try stream(dataset, indices, preprocessing, width, loaderThreads, body) { pixels, count, output in
            for image in 0..<count {
                let first = image * preprocessing.count
                output.replaceSubrange((image * width)..<((image + 1) * width), with: pixels[first..<(first + width)])
            }
        }
    }

    private static func stream(
        _ dataset: Dataset, _ indices: [Int]?, _ preprocessing: Preprocessing, _ dimension: Int, _ loaderThreads: Int,
        _ body: (ArraySlice<Float>, [Int]) throws -> Void, compute: ([Float], Int, inout [Float]) throws -> Void
    ) throws -> [(index: Int, reason: String)] {
        let wanted = indices ?? Array(0..<dataset.count)
        let loader = PrefetchLoader(
            count: (wanted.count + chunk - 1) / chunk, threads: loaderThreads, capacity: 2 * loaderThreads
        ) { item in
            PreparedImages(dataset, Array(wanted[item * chunk..<min((item + 1) * chunk, wanted.count)]), preprocessing)
        }
        defer { loader.stop() }
        var unreadable: [(index: Int, reason: String)] = []
        var rows = [Float](repeating: 0, count: chunk * dimension)
        while let images = try loader.next()?.get() {
            unreadable += images.unreadable
            if images.indices.isEmpty { continue }
            try compute(images.pixels, images.indices.count, &rows)
            try body(rows[..<(images.indices.count * dimension)], images.indices)
        }
        return unreadable
    }
}

/// Some images as model input [indices.count, 3, crop, crop].
private struct PreparedImages: Sendable {
    private(set) var pixels: [Float]
    private(set) var indices: [Int] = []
    private(set) var unreadable: [(index: Int, reason: String)] = []

    init(_ dataset: Dataset, _ wanted: [Int], _ preprocessing: Preprocessing) {
        pixels = [Float](repeating: 0, count: wanted.count * preprocessing.count)
        for index in wanted {
            do {
                let place = indices.count * preprocessing.count
                try dataset.withImage(
                    index, side: preprocessing.resize, background: preprocessing.background
                ) { image in
                    pixels.withUnsafeMutableBufferPointer { buffer in
                        if let start = buffer.baseAddress { preprocessing.apply(to: image, into: start + place) }
                    }
                }
                indices.append(index)
            } catch {
                unreadable.append((index, "\(error)"))
            }
        }
    }
}
