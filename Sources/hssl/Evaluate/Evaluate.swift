import ArgumentParser
import HSSLCommandLine
import HSSLData
import HSSLRuntime

struct Evaluate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Judge features by the labels of a data set.",
        discussion: """
            Examples:
              hssl evaluate knn --model base.safetensors --train DATA/train \\
                  --test DATA/t10k
              hssl evaluate linear --model base.safetensors --train DATA/train \\
                  --test DATA/t10k --labels-per-class 10
              hssl evaluate knn --raw-pixels 28 --train DATA/train --test DATA/t10k
            """,
        subcommands: [KNN.self, Linear.self, RetrievalCommand.self, SegmentationCommand.self])

    /// Positive finite numbers or counts, separated by commas; nil where one is not.
    static func list<Number>(_ text: String, _ number: (Substring) -> Number?) -> [Number]? {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(number)
        return parts.contains { $0 == nil } ? nil : parts.compactMap { $0 }
    }
}

extension Array {
    /// Moves the elements out, so that whoever gets them may change them in place.
    mutating func take() -> [Element] {
        var taken: [Element] = []
        swap(&taken, &self)
        return taken
    }
}

extension Features: ExpressibleByArgument {}

extension FolderLabels: ExpressibleByArgument {}

extension DecodeOptions {
    var limits: DecodeLimits { DecodeLimits(maxPixels: maxPixels?.count, maxDecodeMemory: maxDecodeMemory?.bytes) }
}

let folderLabelsHelp = ArgumentHelp("""
    folders: the folders right inside DATA are classes, and images beside them are passed over; none: every image \
    below DATA is taken, without labels. Default: folders are classes where no image lies beside them.
    """, valueName: "folders|none")
