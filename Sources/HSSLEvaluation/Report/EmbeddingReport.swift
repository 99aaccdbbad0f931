import Foundation
import HSSLData
import HSSLFormats

/// What an embeddings file holds, on one page that needs no other file, no script and no network: a map by the first
/// two principal components, nearest neighbours and the pairs that are most alike; of patch features their first three
/// principal components as colours beside each image.
///
/// There is no neighbour embedding (t-SNE, UMAP): what such a map shows depends on its settings, and the lists of
/// neighbours say the same without distortion.
public struct EmbeddingReport {
    /// How much a page shows.
    public struct Settings: Sendable {
        /// Thumbnails on the map, and pictures of patch features.
        public var pictures = 300
        /// Images whose neighbours are shown.
        public var neighborhoods = 12
        /// Pairs of at least this cosine are called near-duplicates.
        public var duplicateCosine: Float = 0.995
        /// What decoding an image again, for its picture, may cost.
        public var limits = DecodeLimits.default

        /// The usual settings.
        public init() {}
    }

    /// The page: one HTML document in UTF-8, pictures included.
    public let html: String
    /// Images that could not be shown, each in one line.
    public let faults: [String]

    private static let neighbors = 8
    private static let pairs = 30
    private static let dots = 20_000
    private static let patchPictures = 96

    /// Bytes that making a page takes beyond the embeddings in the file.
    package static func memory(_ stored: StoredEmbeddings, settings: Settings = Settings()) -> Int {
        let count = stored.count, rowShape = stored.rowShape, dimension = rowShape.last ?? 0
        let components = CurvatureGuess.bytes(dimension) + 64 * dimension
        let nameBytes = stored.names.reduce(0) { $0 + $1.utf8.count }
        // Pictures in base64 and the text of the page are joined some four times.
        let shown = min(settings.pictures, count)
        let text = 4 * (300 * min(dots, count) + nameBytes / max(1, count / dots))
        guard rowShape.count == 1 else {
            let patches = rowShape[0] * min(shown, patchPictures)
            return components + 4 * 2 * patches * dimension + 64 * patches + patchPictures * 4 * 64 << 10
        }
        let found = NearestSearch.memory(queries: count, dimension: dimension, k: neighbors + 1)
        // Centred for the map, held for the search; pairs of near-duplicates; pictures.
        return components + 4 * count * dimension + found + 8 * count * 96 + text + 4 * 6 << 10 * shown
            + 4 * 20 << 10 * (settings.neighborhoods * (neighbors + 1) + 2 * pairs)
    }

    /// - Throws: `FileError` for embeddings that cannot be read, ``EvaluationError`` for what they hold.
    public init(embeddings path: String, settings: Settings = Settings()) throws {
        try self.init(StoredEmbeddings(path: path), settings: settings)
    }

    package init(_ stored: StoredEmbeddings, settings: Settings) throws {
        var pictures = Thumbnails(limits: settings.limits)
        let page = EmbeddingPage(title: stored.path)
        let body = stored.rowShape.count == 1
            ? try Self.map(stored, settings, page, &pictures) : try Self.patches(stored, settings, page, &pictures)
        html = page.document(body)
        faults = pictures.faults
    }

    // MARK: One vector an image

    private static func map(
        _ stored: StoredEmbeddings, _ settings: Settings, _ page: EmbeddingPage, _ pictures: inout Thumbnails
    ) throws -> String {
        let dimension = stored.rowShape[0]
        let components = try PrincipalComponents(features: stored.values, dimension: dimension, count: 2)
        let spread = try FeatureStatistics(features: stored.values, dimension: dimension)
        // Labels only colour the dots: without them all have one colour.
        let labels = try? ImageLabels(
            names: stored.names, source: stored.path, inflatedBytes: settings.limits.bytes)
        let shares = components.shares.map { Self.percent($0) }
        var sections = [page.facts([
            ("images", "\(stored.count)"), ("dimensions", "\(dimension)"),
            ("variance on the map", shares.joined(separator: " + ")),
            ("spread (mean deviation of unit vectors)", rounded(spread.meanStandardDeviation, 4)),
        ])]

        let shown = Set(evenly(settings.pictures, of: stored.count))
        var points: [EmbeddingPage.Point] = []
        for row in evenly(dots, of: stored.count, with: shown) {
            points.append(
                EmbeddingPage.Point(
                    x: Double(components.coordinates[row * components.count]),
                    y: components.count > 1 ? Double(components.coordinates[row * components.count + 1]) : 0,
                    name: stored.names[row], label: labels?.labels[row],
                    picture: shown.contains(row) ? pictures.image(stored.names[row], side: 32) : nil))
        }
        sections.append(page.map(points, classNames: labels?.classNames ?? []))

        // One more than is shown, for each finds itself.
        let search = try NearestSearch(
            queries: stored.values, dimension: dimension, k: min(neighbors + 1, stored.count))
        try search.add(stored.values)
        var rows: [[EmbeddingPage.Captioned]] = []
        for query in evenly(settings.neighborhoods, of: stored.count) {
            let found = try search.neighbors(of: query).filter { $0.index != query }.prefix(neighbors)
            let line = [(query, nil as Float?)] + found.map { ($0.index, $0.similarity) }
            rows.append(line.map { index, cosine in
                EmbeddingPage.Captioned(
                    picture: pictures.image(stored.names[index], side: 64), name: stored.names[index],
                    caption: cosine.map { rounded(Double($0), 3) } ?? "query")
            })
        }
        sections.append(
            page.table(
                "Nearest neighbours", "The first picture of a row and those with the highest cosine to it.", rows))
        sections.append(try duplicates(stored, search, settings, page, &pictures))
        return sections.joined(separator: "\n")
    }

    private static func duplicates(
        _ stored: StoredEmbeddings, _ search: NearestSearch, _ settings: Settings, _ page: EmbeddingPage,
        _ pictures: inout Thumbnails
    ) throws -> String {
        struct Pair: Hashable {
            let a: Int, b: Int
        }
        var cosines: [Pair: Float] = [:]
        for query in 0..<stored.count {
            for neighbor in try search.neighbors(of: query)
            where neighbor.index != query && neighbor.similarity >= settings.duplicateCosine {
                cosines[Pair(a: min(query, neighbor.index), b: max(query, neighbor.index))] = neighbor.similarity
            }
        }
        let sorted = cosines.sorted {
            $0.value != $1.value ? $0.value > $1.value : ($0.key.a, $0.key.b) < ($1.key.a, $1.key.b)
        }
        let limit = rounded(Double(settings.duplicateCosine), 4)
        let text = sorted.isEmpty
            ? "No pair among the \(neighbors) nearest of each image has a cosine of \(limit) or more."
            : "\(sorted.count) pairs among the \(neighbors) nearest of each image have a cosine of \(limit) or more; "
                + "\(min(pairs, sorted.count)) with the highest are shown."
        let rows = sorted.prefix(pairs).map { pair, cosine in
            [pair.a, pair.b].map { index in
                EmbeddingPage.Captioned(
                    picture: pictures.image(stored.names[index], side: 64), name: stored.names[index],
                    caption: index == pair.a ? rounded(Double(cosine), 4) : "")
            }
        }
        return page.table("Near-duplicates", text, rows, inline: true)
    }

    // MARK: A vector a patch

    private static func patches(
        _ stored: StoredEmbeddings, _ settings: Settings, _ page: EmbeddingPage, _ pictures: inout Thumbnails
    ) throws -> String {
        guard stored.rowShape.count == 2 else {
            throw EvaluationError("\(stored.path): rows of shape \(stored.rowShape) are neither [D] nor [N, D]")
        }
        let (patches, dimension) = (stored.rowShape[0], stored.rowShape[1])
        let grid = Int(Double(patches).squareRoot().rounded())
        guard grid * grid == patches else {
            throw EvaluationError("\(stored.path): \(patches) patches are not a square")
        }
        let shown = evenly(min(settings.pictures, patchPictures), of: stored.count)
        var features: [Float] = []
        for row in shown { features += stored.values[(row * patches * dimension)..<((row + 1) * patches * dimension)] }
        let components = try PrincipalComponents(features: features, dimension: dimension, count: 3)
        let colors = PatchColors(components)
        let shares = components.shares.map { Self.percent($0) }
        let facts = page.facts([
            ("images", "\(stored.count)"), ("patches", "\(grid) × \(grid)"), ("dimensions", "\(dimension)"),
            ("variance in red, green and blue", shares.joined(separator: " + ")),
        ])
        let rows = shown.enumerated().map { place, row in
            [
                EmbeddingPage.Captioned(
                    picture: pictures.image(stored.names[row], side: 112), name: stored.names[row], caption: ""),
                EmbeddingPage.Captioned(
                    picture: pictures.encode(
                        RGBImage(
                            width: grid, height: grid,
                            pixels: colors.pixels(of: place * patches..<(place + 1) * patches)),
                        name: stored.names[row]),
                    name: stored.names[row], caption: ""),
            ]
        }
        let text =
            "Each image, as the model sees it, and the first three principal components of its patches as red, green "
            + "and blue: patches of one colour have like features."
        return facts + "\n" + page.table("Patches", text, rows, inline: true, side: 112)
    }

    /// `wanted` numbers below `count`, evenly spread, and those of `others`, in order.
    static func evenly(_ wanted: Int, of count: Int, with others: Set<Int> = []) -> [Int] {
        guard wanted < count else { return Array(0..<count) }
        return others.union((0..<wanted).map { $0 * count / wanted }).sorted()
    }

    private static func percent(_ share: Double) -> String { "\(rounded(100 * share, 1)) %" }

    private static func rounded(_ value: Double, _ places: Int) -> String { String(format: "%.\(places)f", value) }
}

/// Principal components as colours: the middle 98 % of each from 0 to 255.
struct PatchColors {
    private let components: PrincipalComponents
    private let ranges: [(low: Float, high: Float)]

    init(_ components: PrincipalComponents) {
        self.components = components
        let rows = components.coordinates.count / components.count
        ranges = (0..<components.count).map { c in
            let sorted = (0..<rows).map { components.coordinates[$0 * components.count + c] }.sorted()
            return (sorted[rows / 100], sorted[rows - 1 - rows / 100])
        }
    }

    func pixels(of rows: Range<Int>) -> [UInt8] {
        rows.flatMap { row in
            (0..<3).map { c -> UInt8 in
                guard c < components.count, ranges[c].high > ranges[c].low else { return 128 }
                let value = components.coordinates[row * components.count + c]
                return UInt8(max(0, min(255, 255 * (value - ranges[c].low) / (ranges[c].high - ranges[c].low))))
            }
        }
    }
}

/// Small pictures of images by their names, as PNG in base64; each is made once a size.
struct Thumbnails {
    private(set) var faults: [String] = []
    private var known: [String: String?] = [:]
    private var sets: [String: Dataset] = [:]
    private let limits: DecodeLimits

    init(limits: DecodeLimits) { self.limits = limits }

    /// nil, and a fault, where the image cannot be read.
    mutating func image(_ name: String, side: Int) -> String? {
        let key = "\(side) \(name)"
        if let picture = known[key] { return picture }
        var picture: String?
        do {
            let preprocessing = try Preprocessing(resize: side, crop: side, mean: [0, 0, 0], std: [1, 1, 1])
            picture = encode(preprocessing.cropped(try read(name)), name: name)
        } catch {
            if !faults.contains("\(error)") { faults.append("\(error)") }
        }
        known[key] = picture
        return picture
    }

    mutating func encode(_ image: RGBImage, name: String) -> String? {
        do {
            return Data(try ImageEncoder.png(image, name: name)).base64EncodedString()
        } catch {
            faults.append("\(error)")
            return nil
        }
    }

    private mutating func read(_ name: String) throws -> RGBImage {
        guard let place = ImageLabels.idxPlace(name) else { return try ImageDecoder.decode(path: name, limits: limits) }
        let dataset = try sets[place.file] ?? Dataset(path: place.file, limits: limits, inflatedBytes: limits.bytes)
        sets[place.file] = dataset
        guard place.number < dataset.count else {
            throw EvaluationError("\(place.file): has no image \(place.number)")
        }
        return try dataset.image(place.number)
    }
}
