import HSSLFormats

/// Whether the folders right inside a data set are its classes.
public enum FolderLabels: String, CaseIterable, Sendable {
    case folders, none
}

/// A data set: a torchvision ImageFolder, a folder of images without labels, or an IDX pair given by its prefix.
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
    /// - Throws: ``DataError``, for an empty data set too.
    public init(
        path: String, limits: DecodeLimits = .default, folderLabels: FolderLabels? = nil, excluding: String? = nil
    ) throws {
        self.path = path
        self.limits = limits
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
            let images = try IDXImages(imagesPath: imagesPath)
            storage = .idx(images)
            let known = folderLabels == FolderLabels.none ? nil : images.labels
            labels = known.map { $0.map(Int32.init) }
            classNames = known.flatMap { $0.max() }.map { (0...Int($0)).map(String.init) } ?? []
            count = images.count
            (faults, emptyClasses) = ([], [])
            summary =
                "\(path): \(images.count) images of \(images.width) × \(images.height) (IDX), \(known == nil ? "no labels" : "labelled")"
        } else {
            throw DataError(
                .unreadable, path: path,
                reason: "neither a folder nor the prefix of an IDX pair (\(path)-images-idx3-ubyte[.gz])")
        }
        guard count > 0 else {
            if let fault = faults.first { throw fault }
            throw DataError(.empty, path: path, reason: "the data set has no images (\(ImageFiles.suffixText))")
        }
    }

    /// Class of an image; nil when the data set has no labels.
    public func label(_ index: Int) -> Int? { labels.map { Int($0[index]) } }

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
    /// - Throws: ``DataError``.
    public func image(_ index: Int) throws -> RGBImage {
        switch storage {
        case .files: try ImageDecoder.decode(path: name(index), limits: limits)
        case .idx(let images): images.image(index)
        }
    }
}

/// The one place that decides what of a folder is data and whether its folders are labels.
private struct FolderContents {
    private(set) var names: [String] = []
    private(set) var labels: [Int32]?
    private(set) var classNames: [String] = []
    private(set) var emptyClasses: [String] = []
    let faults: [DataError]
    let summary: String

    init(_ root: String, _ wanted: FolderLabels?, excluding: String?) throws(DataError) {
        var listing = try ImageFiles.list(root, excluding: excluding)
        faults = listing.faults
        // A folder's images follow one another only where names sort alike with and without a slash behind them
        // ("a/…", "a-b/…"), so they are gathered by class: by its bytes, for two strings of one name in different
        // Unicode forms are equal in Swift.
        var members: [[UInt8]: [String]] = [:]
        var beside: [String] = []
        for image in listing.images {
            guard let slash = image.utf8.firstIndex(of: UInt8(ascii: "/")) else {
                beside.append(image)
                continue
            }
            members[Array(image.utf8[..<slash]), default: []].append(image)
        }
        let isLabelled = wanted.map { $0 == .folders } ?? (beside.isEmpty && !members.isEmpty)
        let verdict: String
        if isLabelled {
            guard !members.isEmpty else {
                throw DataError(.empty, path: root, reason: "--labels folders: no folder in it has images")
            }
            listing.summary.passOver(besideClasses: beside)
            var labels: [Int32] = []
            for folder in listing.folders {
                guard let images = members[Array(folder.utf8)] else {
                    emptyClasses.append(ImageFiles.join(root, folder))
                    continue
                }
                labels.append(contentsOf: repeatElement(Int32(classNames.count), count: images.count))
                classNames.append(folder)
                names.append(contentsOf: images)
            }
            self.labels = labels
            verdict = "labels: \(classNames.count) class folder\(classNames.count == 1 ? "" : "s")"
        } else {
            names = listing.images
            verdict =
                wanted == nil && !members.isEmpty
                ? "no labels, as images lie beside the folders (--labels folders takes these as classes)" : "no labels"
        }
        summary = "\(root): \(verdict); \(listing.summary.text)"
    }
}
