/// A data set: a torchvision ImageFolder, a flat folder of images, or an IDX pair given by its prefix.
///
/// Listing happens once, at opening; images are decoded when asked for, from any thread.
public struct Dataset: Sendable {
    private enum Storage: Sendable {
        case files(root: String, names: [String])
        case idx(IDXImages)
    }

    private let storage: Storage
    private let labels: [Int32]?
    private let limits: DecodeLimits

    /// As given at opening.
    public let path: String
    /// Names of the classes in label order; empty when there are no labels. IDX labels are named by their number.
    public let classNames: [String]
    public let count: Int

    /// Opens what `path` names.
    ///
    /// - A folder with folders that hold images: an ImageFolder. Folders are classes, sorted bytewise; images are found
    ///   below them at any depth, sorted bytewise within their class. As in torchvision a class without an image is an
    ///   error, and images beside the class folders are not part of it.
    /// - Any other folder: its images, without labels.
    /// - A prefix such as `…/train`: `train-images-idx3-ubyte[.gz]`, with `train-labels-idx1-ubyte[.gz]` if that
    ///   exists.
    ///
    /// - Throws: ``DataError``, for an empty data set too.
    public init(path: String, limits: DecodeLimits = .default) throws {
        self.path = path
        self.limits = limits
        if ImageFiles.isFolder(path) {
            let listing = try Self.list(folder: path)
            storage = .files(root: path, names: listing.names)
            labels = listing.labels
            classNames = listing.classNames
            count = listing.names.count
        } else if let imagesPath = IDXImages.imagesPath(prefix: path) {
            let images = try IDXImages(imagesPath: imagesPath)
            storage = .idx(images)
            labels = images.labels.map { $0.map(Int32.init) }
            classNames = images.labels.flatMap { $0.max() }.map { (0...Int($0)).map(String.init) } ?? []
            count = images.count
        } else {
            throw DataError(
                .unreadable, path: path,
                reason: "neither a folder nor the prefix of an IDX pair (\(path)-images-idx3-ubyte[.gz])")
        }
        guard count > 0 else {
            throw DataError(.empty, path: path, reason: "the data set has no images (.jpg, .jpeg, .png)")
        }
    }

    /// Class of an image; nil when the data set has no labels.
    public func label(_ index: Int) -> Int? { labels.map { Int($0[index]) } }

    public var hasLabels: Bool { labels != nil }

    /// Path of the image file; for IDX the file's path, `#` and the image's number from 0.
    public func name(_ index: Int) -> String {
        switch storage {
        case .files(let root, let names): ImageFiles.join(root, names[index])
        case .idx(let images): images.name(index)
        }
    }

    /// Decodes an image, upright and in RGB. Thread-safe.
    ///
    /// - Throws: ``DataError``.
    public func image(_ index: Int) throws -> RGBImage {
        switch storage {
        case .files: try ImageDecoder.decode(path: name(index), limits: limits)
        case .idx(let images): images.image(index)
        }
    }

    private static func list(folder: String) throws -> (names: [String], labels: [Int32]?, classNames: [String]) {
        let classes = try ImageFiles.folders(in: folder)
        let members = try classes.map { try ImageFiles.images(below: ImageFiles.join(folder, $0)) }
        guard members.contains(where: { !$0.isEmpty }) else { return (try ImageFiles.images(below: folder), nil, []) }
        var names: [String] = []
        var labels: [Int32] = []
        for (label, (className, images)) in zip(classes, members).enumerated() {
            guard !images.isEmpty else {
                throw DataError(
                    .empty, path: ImageFiles.join(folder, className),
                    reason: "the class folder has no images (.jpg, .jpeg, .png)")
            }
            names.append(contentsOf: images.map { className + "/" + $0 })
            labels.append(contentsOf: repeatElement(Int32(label), count: images.count))
        }
        return (names, labels, classes)
    }
}
