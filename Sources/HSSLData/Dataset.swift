import HSSLFormats

/// Whether the folders right inside a data set are its classes.
public enum FolderLabels: String, CaseIterable, Sendable {
    /// `folders`: each is a class, and images beside them are passed over. `none`: images have no labels.
    case folders, none
}

/// A data set: a torchvision ImageFolder, a folder of images without labels, or an IDX pair given by its prefix.
///
/// Listing happens once, at opening; images are decoded when asked for, from any thread.
public struct Dataset: Sendable {
    private enum Storage: Sendable {
        case files(root: String, names: PathList)
        case idx(IDXImages)
    }

    private let storage: Storage
    private let labels: [Int32]?
    private let reader: ImageReader

    /// The folder or the prefix, as given at opening.
    public let path: String
    /// Names of the classes in label order; empty when there are no labels. IDX labels are named by their number.
    public let classNames: [String]
    /// Images, numbered from 0; at least 1.
    public let count: Int
    /// Folders that could not be read; everything else is part of the data set.
    public let faults: [DataError]
    /// Class folders without an image: not among `classNames`.
    public let emptyClasses: [String]
    /// What was found, what it is taken for and what was passed over, in one line.
    public let summary: String

    /// Opens what `path` names.
    ///
    /// - A folder whose images all are below folders in it: an ImageFolder. These folders are classes, sorted bytewise;
    ///   images are found below them at any depth, sorted bytewise within their class.
    /// - A folder with images right inside it: all images below it, at any depth, without labels.
    /// - A prefix such as `…/train`: `train-images-idx3-ubyte[.gz]`, with `train-labels-idx1-ubyte[.gz]` if that
    ///   exists.
    ///
    /// - Parameters:
    ///   - folderLabels: `folders` takes folders as classes and passes over images beside them, `none` takes every
    ///     image
    ///     without a label; nil decides as above.
    ///   - excluding: a folder that is never part of the data: a run's own output.
    ///   - inflatedBytes: most memory of an IDX file that is inflated.
    /// - Throws: ``DataError``, for an empty data set too.
    public init(
        path: String, limits: DecodeLimits = .default, folderLabels: FolderLabels? = nil, excluding: String? = nil,
        inflatedBytes: Int = .max
    ) throws {
        self.path = path
        if ImageFiles.isFolder(path) {
            let found = try FolderContents(path, folderLabels, excluding: excluding)
            storage = .files(root: path, names: found.names)
            labels = found.labels
            classNames = found.classNames
            count = found.names.count
            faults = found.faults
            emptyClasses = found.emptyClasses
            summary = found.summary
        } else if let imagesPath = IDXImages.imagesPath(prefix: path) {
            let images = try IDXImages(imagesPath: imagesPath, mostBytes: min(limits.bytes, inflatedBytes))
            storage = .idx(images)
            let known = folderLabels == FolderLabels.none ? nil : images.labels
            labels = known.map { $0.map(Int32.init) }
            classNames = known.flatMap { $0.max() }.map { (0...Int($0)).map(String.init) } ?? []
            count = images.count
            (faults, emptyClasses) = ([], [])
            summary =
                "\(path): \(images.count) images of \(images.width) × \(images.height) (IDX), "
                + "\(known == nil ? "no labels" : "labelled")"
        } else {
            throw DataError(
                .unreadable, path: path,
                reason: "neither a folder nor the prefix of an IDX pair (\(path)-images-idx3-ubyte[.gz])")
        }
        reader = ImageReader(limits: limits, count: count)
        guard count > 0 else {
            if let fault = faults.first { throw fault }
            throw DataError(.empty, path: path, reason: "the data set has no images (\(ImageFiles.suffixText))")
        }
    }

    /// Class of an image, a place in ``classNames``; nil when the data set has no labels.
    ///
    /// - Parameter index: 0 ..< ``count``.
    public func label(_ index: Int) -> Int? { labels.map { Int($0[index]) } }

    /// Whether every image has a label; without, ``classNames`` is empty.
    public var hasLabels: Bool { labels != nil }

    /// Whether the format holds grey images only: then the three channels of each are alike.
    public var isGrey: Bool {
        switch storage {
        case .files: false
        case .idx: true
        }
    }

    /// Path of the image file; for IDX the file's path, `#` and the image's number from 0.
    public func name(_ index: Int) -> String {
        switch storage {
        case .files(let root, let names): ImageFiles.join(root, names[index])
        case .idx(let images): images.name(index)
        }
    }

    /// Decodes an image, upright and in RGB. Thread-safe.
    ///
    /// - Parameters:
    ///   - index: 0 ..< ``count``.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError``, naming the image, where it cannot be read or decoded or is over the limits.
    public func image(_ index: Int, background: RGBColor = .black) throws -> RGBImage {
        try withImage(index, side: 0, background: background) { $0 }
    }

    /// Decodes an image for `body`. Thread-safe; what the images of several threads take together stays within
    /// ``DecodeLimits/bytes``, for which a thread may have to wait.
    ///
    /// - Parameters:
    ///   - side: to which `body` resizes, which takes memory beside the image; 0: it does not.
    ///   - background: what is seen where the image is transparent.
    /// - Throws: ``DataError``, and what `body` throws.
    public func withImage<Result>(
        _ index: Int, side: Int, background: RGBColor = .black, _ body: (RGBImage) throws -> Result
    ) throws -> Result {
        switch storage {
        case .files:
            try reader.withImage(
                index, path: name(index), background: background, workspace: Preprocessing.workspace(side: side),
                body)
        case .idx(let images): try body(try images.image(index))
        }
    }

    /// What decoding an image may cost: as given at opening, or lowered since.
    public var limits: DecodeLimits { reader.limits }

    /// Other memory for decoding, from now on; all copies of this data set share it.
    ///
    /// - Parameter name: the flag that decides about it, as messages name it.
    package func limitDecoding(toBytes bytes: Int, name: String) { reader.limit(toBytes: bytes, name: name) }

    /// How many images were whole but for their end marker, so far.
    public var repairedCount: Int { reader.repairedCount }

    /// Memory that decoding an image and resizing it to `side` takes, from its header; nil where it cannot be read.
    package func decodeBytes(_ index: Int, side: Int) -> Int? {
        switch storage {
        case .files: reader.bytesNeeded(path: name(index), workspace: Preprocessing.workspace(side: side))
        case .idx(let images):
            6 * images.width * images.height + Preprocessing.workspace(side: side)(images.width, images.height)
        }
    }

    /// Places of the `most` largest files, or of any for IDX: where the largest images are likely to be.
    package func largestFiles(_ most: Int) -> [Int] {
        guard case .files = storage else { return Array((0..<count).prefix(1)) }
        var largest: [(size: Int, index: Int)] = []
        for index in 0..<count {
            let size = ImageFiles.size(name(index))
            if largest.count == most, let least = largest.last, size <= least.size { continue }
            let place = largest.firstIndex { $0.size < size } ?? largest.count
            largest.insert((size, index), at: place)
            if largest.count > most { largest.removeLast() }
        }
        return largest.map(\.index)
    }
}

/// The one place that decides what of a folder is data and whether its folders are labels.
private struct FolderContents {
    private(set) var names: PathList
    private(set) var labels: [Int32]?
    private(set) var classNames: [String] = []
    private(set) var emptyClasses: [String] = []
    let faults: [DataError]
    let summary: String

    init(_ root: String, _ wanted: FolderLabels?, excluding: String?) throws(DataError) {
        var listing = try ImageFiles.list(root, excluding: excluding)
        faults = listing.faults
        names = listing.images
        // Folders by their bytes, for two strings of one name in different Unicode forms are equal in Swift.
        var places: [[UInt8]: Int] = [:]
        for (place, folder) in listing.folders.enumerated() { places[Array(folder.utf8)] = place }
        // The folder of each image, or -1 for those right inside the root.
        let owners = listing.images.indices.map { index in
            listing.images.withBytes(index) { path -> Int32 in
                guard let slash = path.firstIndex(of: UInt8(ascii: "/")) else { return -1 }
                return places[Array(path[..<slash])].map(Int32.init) ?? -1
            }
        }
        let besides = owners.count { $0 < 0 }
        let hasMembers = besides < owners.count
        let isLabelled = wanted.map { $0 == .folders } ?? (besides == 0 && hasMembers)
        let verdict: String
        if isLabelled {
            guard hasMembers else {
                throw DataError(.empty, path: root, reason: "--labels folders: no folder in it has images")
            }
            listing.summary.passOver(besideClasses: listing.images.indices.lazy.filter { owners[$0] < 0 }
                .map { [images = listing.images] in images[$0] })
            var sizes = [Int](repeating: 0, count: listing.folders.count)
            for owner in owners where owner >= 0 { sizes[Int(owner)] += 1 }
            var labelOf = [Int32](repeating: -1, count: sizes.count), starts = [Int](repeating: 0, count: sizes.count)
            var start = 0
            for (place, folder) in listing.folders.enumerated() {
                guard sizes[place] > 0 else {
                    emptyClasses.append(ImageFiles.join(root, folder))
                    continue
                }
                labelOf[place] = Int32(classNames.count)
                classNames.append(folder)
                starts[place] = start
                start += sizes[place]
            }
            // By class and in order within it: a folder's images follow one another only where names sort alike with
            // and without a slash behind them ("a/…", "a-b/…").
            var order = [UInt32](repeating: 0, count: start), labels = [Int32](repeating: 0, count: start)
            for (index, owner) in owners.enumerated() where owner >= 0 {
                order[starts[Int(owner)]] = UInt32(index)
                labels[starts[Int(owner)]] = labelOf[Int(owner)]
                starts[Int(owner)] += 1
            }
            names.reorder(order)
            self.labels = labels
            verdict = "labels: \(classNames.count) class folder\(classNames.count == 1 ? "" : "s")"
        } else {
            verdict =
                wanted == nil && hasMembers
                ? "no labels, as images lie beside the folders (--labels folders takes these as classes)" : "no labels"
        }
        summary = "\(root): \(verdict); \(listing.summary.text)"
    }
}
